"""The contract's workshop: generated code, and the image of what was last released.

Run it in the virtualenv:

    python tools/protos.py            writes protos/src from protos/tillsync/v1/*.proto
    python tools/protos.py --check    says what differs, changes nothing
    python tools/protos.py --release  keeps today's contract as the released one (protos/README.md)
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent.parent / "protos"
GENERATED = PROTOS / "src"
RELEASED = PROTOS / "released.binpb"


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--check", action="store_true", help="compare only")
    words.add_argument("--release", action="store_true", help="write protos/released.binpb")
    chosen = words.parse_args()

    if chosen.release:
        run(tool("buf"), "build", "--exclude-source-info", "-o", str(RELEASED))
        return 0

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)

        if not chosen.check:
            shutil.rmtree(GENERATED)
            shutil.copytree(fresh, GENERATED)
            return 0

        stale = differences(contents(GENERATED), contents(fresh))

    for name in stale:
        print(f"protos/src/{name} is not what the .proto files say: run `make gen`")
    return 1 if stale else 0


def generate(target: Path) -> None:
    """Fills an empty folder with what protos/src should be."""
    run(
        sys.executable,
        *("-m", "grpc_tools.protoc", "-I."),
        *(f"--plugin={name}={tool(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *(f"--{output}_out={target}" for output in ("python", "grpc_python")),
        *(f"--{output}_out=quiet:{target}" for output in ("mypy", "mypy_grpc")),
        *sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("tillsync/v1/*.proto")),
    )
    (target / "tillsync" / "py.typed").touch()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but Python's caches, lines ending the same way on every system."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(b"\r\n", b"\n")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def differences(committed: dict[str, bytes], fresh: dict[str, bytes]) -> list[str]:
    return sorted(
        name for name in committed.keys() | fresh.keys() if committed.get(name) != fresh.get(name)
    )


def tool(name: str) -> str:
    """Where a program of this virtualenv is."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        sys.exit(f"{name} is not installed: run `make install`")
    return found


def run(*command: str) -> None:
    subprocess.run(command, cwd=PROTOS, check=True)


if __name__ == "__main__":
    sys.exit(main())
