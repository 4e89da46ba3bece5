"""The page docs/tables.md, made from the tables' schemas: `python -m tests.tables_page > docs/tables.md`."""

from storage.layout import CATALOGUE_TABLES, catalogue_path, table_folder
from storage.tables.schemas import KEYS, PARTITION, SCHEMAS, TITLES, dataset_schema


def markdown() -> str:
    """The page of all tables and columns, for people; made from the schemas, so that it cannot
    disagree with them.
    """
    lines = ["# Tables", ""]
    for table in SCHEMAS:
        where = f"{table_folder(table, PARTITION[table], '…')}/*.parquet"
        where = catalogue_path(table) if table in CATALOGUE_TABLES else where
        keys = ", ".join(f"`{key}`" for key in KEYS[table])
        lines += [
            f"## {table}",
            "",
            TITLES[table],
            "",
            f"`{where}`" + (f" · one row per {keys}" if keys else ""),
            "",
        ]
        lines += ["| column | type | unit | range | meaning |", "|---|---|---|---|---|"]
        for field in dataset_schema(table):
            text = {key.decode(): value.decode() for key, value in field.metadata.items()}
            meaning, range_ = (text[key].replace("|", "\\|") for key in ("description", "range"))
            kind = str(field.type) + (", may be null" if field.nullable else "")
            lines.append(f"| `{field.name}` | {kind} | {text['unit']} | {range_} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
