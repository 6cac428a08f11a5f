"""No tenant reads or changes another's rows: the database sees to it, whatever a query forgets."""

from contextlib import suppress
from uuid import UUID, uuid4

import asyncpg
import pytest

from tillsync_service.foundation.db import Role, statements
from tillsync_service.foundation.errors import Unavailable

SERVING_ROLES = ["tillsync_app", "tillsync_worker", "tillsync_lookup"]

# What the worker may list of every tenant.
LISTED_BY_THE_WORKER = {"tenant", "tenant_head", "feed_consumer", "projection", "dead_letter"}


@pytest.fixture
async def tenants(fleet):
    """Two tenants with something in every table."""
    return [UUID((await fleet.a_busy_tenant())[0]) for _ in range(2)]


@pytest.fixture
async def tables(migrator):
    """Every table of the schema."""
    rows = await migrator.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'tillsync'::regnamespace"
        " AND relkind IN ('r', 'p') ORDER BY relname"
    )
    return [row["relname"] for row in rows]


class Acting:
    """Statements of one role of the service, each in a transaction of its own."""

    def __init__(self, database, role):
        self._database = database
        self.role = role

    async def done(self, tenant_id, statement, *arguments):
        """What the database says it has done."""
        async with self._database.transaction(tenant_id, role=self.role) as transaction:
            return await transaction.execute(statement, *arguments)

    async def tenants_in(self, table, tenant_id):
        """Whose rows there are, without a WHERE."""
        async with self._database.transaction(tenant_id, role=self.role) as transaction:
            rows = await transaction.fetch(f"SELECT tenant_id FROM tillsync.{table}")
        return {row["tenant_id"] for row in rows}

    async def is_refused(self, because, tenant_id, statement, *arguments):
        """The database does not permit the statement, with an error that says `because`."""
        with pytest.raises(Unavailable) as refusal:
            await self.done(tenant_id, statement, *arguments)
        assert isinstance(refusal.value.__cause__, asyncpg.InsufficientPrivilegeError)
        assert because in str(refusal.value.__cause__)

    def lists(self, table):
        return self.role is Role.WORKER and table in LISTED_BY_THE_WORKER


@pytest.fixture(params=Role)
def acting(database, request):
    return Acting(database, request.param)


async def copies(migrator, table, tenant_id):
    """A tenant's rows as JSON, past what keeps tenants apart."""
    rows = await migrator.fetch(
        f"SELECT to_jsonb(t)::text AS copy FROM tillsync.{table} t"
        " WHERE tenant_id = $1 ORDER BY copy",
        tenant_id,
    )
    assert rows, f"the test puts nothing into {table}"
    return [row["copy"] for row in rows]


def insertion(table):
    """Inserts a copy, $1."""
    return (
        f"INSERT INTO tillsync.{table}"
        f" SELECT * FROM jsonb_populate_record(NULL::tillsync.{table}, $1::jsonb)"
    )


async def test_i8_no_tenant_reads_or_changes_anothers_rows(acting, migrator, tables, tenants):
    """One retailer's program forgets its WHERE: it sees its own rows only, and can neither add to
    nor change nor take away what is another's, in any table there is."""
    ours, theirs = tenants
    for table in tables:
        before = await copies(migrator, table, theirs)

        seen = await acting.tenants_in(table, ours)
        touch = f"UPDATE tillsync.{table} SET tenant_id = tenant_id WHERE tenant_id = '{theirs}'"
        assert await acting.done(ours, touch) == "UPDATE 0", table
        give_away = f"UPDATE tillsync.{table} SET tenant_id = '{theirs}'"
        await acting.is_refused("row-level security", ours, give_away)
        await acting.is_refused("row-level security", ours, insertion(table), before[0])
        if acting.role is Role.WORKER:
            delete = f"DELETE FROM tillsync.{table} WHERE tenant_id = '{theirs}'"
            assert await acting.done(ours, delete) == "DELETE 0", table

        assert seen == ({ours, theirs} if acting.lists(table) else {ours}), table
        assert await copies(migrator, table, theirs) == before


async def test_i8_a_feed_that_names_another_tenant_finds_nothing(database, tenants):
    """A mistake in the service asks for another retailer's feed: there is no event, no head and no
    consumer, and none is written."""
    ours, theirs = tenants
    sql = statements("tillsync_service.feed")
    page = (0, 100, 100, 2**20, None, None, None, None)
    arguments = {"head": (), "page": page, "consumer": ("erp",), "consumers": ()}
    for name, more in arguments.items():
        for asker, wanted in ((theirs, True), (ours, False)):
            async with database.transaction(asker) as transaction:
                rows = await transaction.fetch(sql[name], theirs, *more)
            assert bool(rows) is wanted, name
    commit = (sql["commit"], theirs, "erp", 9, uuid4(), True)
    await Acting(database, Role.APP).is_refused("row-level security", ours, *commit)
    async with database.transaction(ours, role=Role.WORKER) as transaction:
        assert await transaction.execute(sql["delete_consumer"], theirs, "erp") == "DELETE 0"


async def test_without_a_tenant_nothing_is_there(acting, migrator, tables, tenants):
    """A program that forgets to say for whom it works sees no row, changes none and adds none."""
    for table in tables:
        seen = await acting.tenants_in(table, None)
        touch = f"UPDATE tillsync.{table} SET tenant_id = tenant_id"
        assert await acting.done(None, touch) == "UPDATE 0", table
        (copy, *_) = await copies(migrator, table, tenants[0])
        await acting.is_refused("row-level security", None, insertion(table), copy)

        assert seen == (set(tenants) if acting.lists(table) else set()), table


async def test_the_serving_role_deletes_nothing(database, tables, tenants):
    """Whatever goes wrong while serving, no sale of anybody's is deleted or emptied away."""
    serving = Acting(database, Role.APP)
    for table in tables:
        for statement in ("DELETE FROM", "TRUNCATE"):
            await serving.is_refused(
                "permission denied", tenants[0], f"{statement} tillsync.{table}"
            )


async def test_the_login_of_the_service_sees_nothing_without_a_role(database_url, tables, tenants):
    """The service's own login can do nothing by itself, or only what its roles may: without a
    tenant it sees no row."""
    connection = await asyncpg.connect(database_url)
    try:
        is_superuser = await connection.fetchval(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        assert not is_superuser
        for table in set(tables) - LISTED_BY_THE_WORKER:
            with suppress(asyncpg.InsufficientPrivilegeError):
                assert await connection.fetch(f"SELECT FROM tillsync.{table}") == [], table
    finally:
        await connection.close()


async def test_row_level_security_is_forced_on_every_table(migrator, tables):
    """A new table cannot be forgotten: each has its rows kept apart, also for its owner."""
    rows = await migrator.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'tillsync'::regnamespace"
        " AND relkind IN ('r', 'p') AND relrowsecurity AND relforcerowsecurity ORDER BY relname"
    )

    assert [row["relname"] for row in rows] == tables


async def test_only_the_narrow_policies_reach_beyond_a_tenant(migrator):
    """What sees more than one tenant is written down here: the worker's lists, and the lookups
    before the tenant is known. Every other policy compares the tenant."""
    rows = await migrator.fetch(
        "SELECT tablename, policyname, roles, cmd FROM pg_policies WHERE schemaname = 'tillsync'"
        " AND qual NOT LIKE '(tenant_id = (NULLIF(current_setting(''tillsync.tenant''::text,%'"
    )

    assert {(row["tablename"], *row["roles"], row["cmd"]) for row in rows} == {
        *((table, "tillsync_worker", "SELECT") for table in LISTED_BY_THE_WORKER),
        ("device", "tillsync_lookup", "SELECT"),
        ("device_secret", "tillsync_lookup", "SELECT"),
        ("enrolment_code", "tillsync_lookup", "SELECT"),
    }


async def test_the_roles_own_nothing_and_are_above_nothing(migrator):
    """The roles that serve cannot lift what keeps the tenants apart: they are no superusers, pass
    no row-level security, own no table, and inherit from nobody."""
    roles = await migrator.fetch(
        "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb"
        " FROM pg_roles WHERE rolname = ANY ($1) ORDER BY rolname",
        SERVING_ROLES,
    )
    owned = await migrator.fetch(
        "SELECT relname FROM pg_class JOIN pg_roles r ON r.oid = relowner WHERE rolname = ANY ($1)"
        " UNION ALL"
        " SELECT nspname FROM pg_namespace JOIN pg_roles r ON r.oid = nspowner"
        " WHERE rolname = ANY ($1)",
        SERVING_ROLES,
    )
    above = await migrator.fetch(
        "SELECT FROM pg_auth_members JOIN pg_roles r ON r.oid = member WHERE rolname = ANY ($1)",
        SERVING_ROLES,
    )

    assert [tuple(role) for role in roles] == [
        (name, False, False, False, False, False) for name in sorted(SERVING_ROLES)
    ]
    assert owned == above == []


async def test_what_looks_beyond_a_tenant_is_not_for_everybody(migrator):
    """Only the service may ask whose code or secret something is, and each such function keeps
    to its own schema whatever the caller's search path says."""
    functions = await migrator.fetch(
        "SELECT p.proname, p.prosecdef, p.proconfig, r.rolname,"
        " has_function_privilege('public', p.oid, 'EXECUTE') AS public"
        " FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner"
        " WHERE p.pronamespace = 'tillsync'::regnamespace AND p.prosecdef"
    )

    assert {f["proname"] for f in functions} == {
        "find_code",
        "find_secret",
        "standing_of_devices",
    }
    for function in functions:
        assert function["proconfig"] == ['search_path=""']
        assert function["rolname"] == "tillsync_lookup"
        assert not function["public"]


async def test_every_key_begins_with_the_tenant(migrator):
    """The database can be spread over machines by tenant: every primary, unique and foreign key
    begins with it, and no sequence counts across tenants."""
    keys = await migrator.fetch(
        "SELECT i.indexrelid::regclass::text AS key,"
        " pg_get_indexdef(i.indexrelid, 1, false) AS first"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " WHERE c.relnamespace = 'tillsync'::regnamespace AND i.indisunique"
    )
    foreign = await migrator.fetch(
        "SELECT c.conname AS key, a.attname AS first FROM pg_constraint c"
        " JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]"
        " WHERE c.connamespace = 'tillsync'::regnamespace AND c.contype = 'f'"
    )
    sequences = await migrator.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'tillsync'::regnamespace"
        " AND relkind = 'S'"
    )

    assert [row["key"] for row in (*keys, *foreign) if row["first"] != "tenant_id"] == []
    assert len(keys) > 10
    assert sequences == []
