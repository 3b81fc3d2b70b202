"""List or clear the cache of tokenised text."""

from __future__ import annotations

import json

from collapselab.cli.common import make_options, print_table


def main(arguments: list[str]) -> int:
    options = make_options("corpus")
    options.add("clear", str | None, None, "remove: `all`, or the beginning of a digest")
    options.add("show", str | None, None, "list what was read: the beginning of a digest, or a corpus.source")
    options.add(
        "data_dir", str | None, None, "with --show: folder of named local corpora; null means $COLLAPSELAB_DATA"
    )
    parsed = options.parse(options.gather(arguments))
    if parsed.show is not None:
        from collapselab.corpus.cache import show
        from collapselab.runtime.console import inert

        for found in show(parsed.show, parsed.data_dir):
            print(inert(json.dumps(found, indent=1, ensure_ascii=False)))
        return 0
    from collapselab.corpus.cache import cached, clear
    from collapselab.corpus.files import cache_root
    from collapselab.runtime.console import inert

    if parsed.clear is not None:
        for name in clear(parsed.clear):
            print(inert(f"removed {name}"))
        return 0
    columns = ["digest", "source", "tokenizer", "tokens", "MB"]
    rows = [
        [row["digest"], row["source"], row["tokenizer"], f"{row['tokens']:,}", f"{row['bytes'] / 1e6:.1f}"]
        for row in cached()
    ]
    print_table(f"tokenised text in {cache_root()}", columns, rows, left=tuple(columns))
    return 0
