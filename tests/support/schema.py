"""The schema as the catalog tells it, in a form that is the same on every version of Postgres."""

import asyncpg

_PARTS = {
    "Tables and columns": """
        SELECT format(
            '%s.%s %s%s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
            coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
            || CASE WHEN k.collname = 'C' THEN ' COLLATE "C"' ELSE '' END
        )
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        LEFT JOIN pg_collation k ON k.oid = a.attcollation
        WHERE c.relnamespace = 'tillsync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
        ORDER BY c.relname COLLATE "C", a.attnum
    """,
    "Storage and row-level security": """
        SELECT format(
            '%s (%s)%s%s', c.relname, array_to_string(c.reloptions, ', '),
            CASE WHEN c.relrowsecurity THEN ' ENABLE' ELSE '' END,
            CASE WHEN c.relforcerowsecurity THEN ' FORCE' ELSE '' END
        )
        FROM pg_class c
        WHERE c.relnamespace = 'tillsync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
        ORDER BY c.relname COLLATE "C"
    """,
    # Postgres 18 lists NOT NULL as a constraint too; the columns have said that.
    "Constraints": """
        SELECT format('%s %s %s', c.relname, x.conname, pg_get_constraintdef(x.oid))
        FROM pg_constraint x
        JOIN pg_class c ON c.oid = x.conrelid
        WHERE c.relnamespace = 'tillsync'::regnamespace AND x.contype <> 'n'
        ORDER BY c.relname COLLATE "C", x.conname COLLATE "C"
    """,
    "Indexes": """
        SELECT pg_get_indexdef(i.indexrelid)
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'tillsync'::regnamespace
        ORDER BY pg_get_indexdef(i.indexrelid) COLLATE "C"
    """,
    "Policies": """
        SELECT format(
            '%s %s FOR %s TO %s USING %s%s', tablename, policyname, cmd,
            array_to_string(roles, ', '), qual, coalesce(' WITH CHECK ' || with_check, '')
        )
        FROM pg_policies
        WHERE schemaname = 'tillsync'
        ORDER BY tablename COLLATE "C", policyname COLLATE "C"
    """,
    "Functions": """
        SELECT format(
            '%s(%s) OWNER %s%s %s', p.proname, pg_get_function_identity_arguments(p.oid),
            CASE WHEN o.rolname LIKE 'tillsync%' THEN o.rolname ELSE 'migrator' END,
            CASE WHEN p.prosecdef THEN ' SECURITY DEFINER' ELSE '' END,
            array_to_string(p.proconfig, ', ')
        )
        FROM pg_proc p
        JOIN pg_roles o ON o.oid = p.proowner
        WHERE p.pronamespace = 'tillsync'::regnamespace
        ORDER BY p.proname COLLATE "C"
    """,
    # The owner's own rights are left out: their list differs between versions.
    "Grants": """
        SELECT format('%s TO %s: %s', object, who, string_agg(what, ', ' ORDER BY what COLLATE "C"))
        FROM (
            SELECT 'TABLE ' || c.relname, c.relacl, c.relowner FROM pg_class c
            WHERE c.relnamespace = 'tillsync'::regnamespace
            UNION ALL
            SELECT 'FUNCTION ' || p.proname, p.proacl, p.proowner FROM pg_proc p
            WHERE p.pronamespace = 'tillsync'::regnamespace
            UNION ALL
            SELECT 'SCHEMA ' || n.nspname, n.nspacl, n.nspowner FROM pg_namespace n
            WHERE n.nspname = 'tillsync'
        ) AS granted (object, acl, owner),
        LATERAL aclexplode(acl) AS entry,
        LATERAL (
            SELECT CASE entry.grantee WHEN 0 THEN 'PUBLIC' ELSE entry.grantee::regrole::text END,
                   entry.privilege_type
        ) AS readable (who, what)
        WHERE entry.grantee <> owner
        GROUP BY object, who
        ORDER BY object COLLATE "C", who COLLATE "C"
    """,
}


async def snapshot(connection: asyncpg.Connection) -> str:
    """Everything of the schema `tillsync`, a line each."""
    parts = []
    for title, query in _PARTS.items():
        lines = [row[0] for row in await connection.fetch(query)]
        parts.append("\n".join([f"-- {title}", *lines]))
    return "\n\n".join(parts) + "\n"
