"""List or clear the cache of tokenised text."""

from __future__ import annotations

import json

from collapselab.cli.common import make_options


def main(arguments: list[str]) -> int:
    options = make_options("corpus")
    options.add("clear", str | None, None, "remove: `all`, or the beginning of a digest")
    options.add("show", str | None, None, "list what was read: the beginning of a digest, or a corpus.source")
    options.add(
        "data_dir", str | None, None, "with --show: folder of named local corpora; null means $COLLAPSELAB_DATA"
    )
    parsed = options.parse(options.gather(arguments))
    if parsed.show is not None:
        from collapselab.corpus.prepared import show
        from collapselab.runtime.console import inert

        for found in show(parsed.show, parsed.data_dir):
            print(inert(json.dumps(found, indent=1, ensure_ascii=False)))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from collapselab.corpus.prepared import cache_root, cached, clear
    from collapselab.runtime.console import inert

    if parsed.clear is not None:
        for name in clear(parsed.clear):
            print(inert(f"removed {name}"))
        return 0
    table = Table(title=Text(f"tokenised text in {cache_root()}"))
    for column in ("digest", "source", "tokenizer", "tokens", "MB"):
        table.add_column(column)
    for row in cached():
        cells = (row["digest"], row["source"], row["tokenizer"], f"{row['tokens']:,}", f"{row['bytes'] / 1e6:.1f}")
        table.add_row(*(Text(inert(cell)) for cell in cells))
    Console().print(table)
    return 0
