"""Agents in processes of their own, enrolled as an operator would."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc

from bench.rig import Target
from tillsync.v1 import admin_service_pb2 as pb
from tillsync.v1.admin_service_pb2_grpc import AdminServiceStub

STEP_SECONDS = 120


async def new_tenant(target: Target) -> UUID:
    async with grpc.aio.insecure_channel(target.address) as channel:
        answer = await AdminServiceStub(channel).CreateTenant(
            pb.CreateTenantRequest(name="bench"), metadata=_metadata(target)
        )
    return UUID(answer.tenant.tenant_id)


async def enrol(target: Target, tenant_id: UUID, state_dir: Path) -> None:
    """A new device in a new store of the tenant."""
    tenant = str(tenant_id)
    async with grpc.aio.insecure_channel(target.address) as channel:
        admin = AdminServiceStub(channel)
        store = await admin.CreateStore(
            pb.CreateStoreRequest(tenant_id=tenant, code=uuid4().hex, name="bench"),
            metadata=_metadata(target),
        )
        code = await admin.CreateEnrolmentCode(
            pb.CreateEnrolmentCodeRequest(tenant_id=tenant, store_id=store.store.store_id),
            metadata=_metadata(target),
        )
    agent = str(Path(sys.executable).with_name("tillsync-agent"))
    where = ("--state-dir", str(state_dir))
    what = ("--service", target.address, "--code", code.code, "--name", "bench")
    await run(agent, *where, "enroll", *what)


async def run(*command: str) -> bytes:
    """What the command prints. Raises RuntimeError when it fails."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return output


class Child:
    """A process of ours that prints JSON objects, one a line, and ends when its input does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None  # noqa: S101 -- it is a pipe
        text = await asyncio.wait_for(self._process.stdout.readline(), STEP_SECONDS)
        answer: dict[str, Any] = json.loads(text)
        return answer

    @property
    def pid(self) -> int:
        return self._process.pid

    async def say(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 -- it is a pipe
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def finish(self) -> dict[str, Any]:
        """What it prints when it was told to end."""
        assert self._process.stdin is not None  # noqa: S101 -- it is a pipe
        self._process.stdin.close()
        return await self.line()


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[Child]:
    """`python -m MODULE ARGUMENTS`, ended afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )
    try:
        yield Child(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STEP_SECONDS)
        except TimeoutError:
            process.kill()


def _metadata(target: Target) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {target.operator_token()}"),)
