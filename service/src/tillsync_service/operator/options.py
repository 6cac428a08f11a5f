"""The options that several commands have."""

import click

as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
of_tenant = click.option("--tenant", type=click.UUID, required=True, help="Whose.")
