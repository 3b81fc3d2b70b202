"""List, show or clear the cache of tokenised text."""

from __future__ import annotations

import json

from collapselab.cli.common import make_options, print_table


def main(arguments: list[str]) -> int:
    options = make_options("corpus")
    options.add("clear", str | None, None, "corpora to remove: `all`, or a prefix of a digest")
    options.add(
        "show", str | None, None, "corpus to describe, with the files read: a prefix of a digest, or a corpus.source"
    )
    options.add(
        "data_dir", str | None, None, "with --show: folder of named local corpora; null means $COLLAPSELAB_DATA"
    )
    parsed = options.parse(options.gather(arguments))
    from collapselab.corpus.cache import cached_corpora, clear, show
    from collapselab.corpus.files import cache_root
    from collapselab.runtime.console import inert

    if parsed.show is not None:
        for record in show(parsed.show, parsed.data_dir):
            print(inert(json.dumps(record, indent=1, ensure_ascii=False)))
        return 0
    if parsed.clear is not None:
        for name in clear(parsed.clear):
            print(inert(f"removed {name}"))
        return 0
    columns = ["digest", "source", "tokenizer", "tokens", "MB"]
    rows = [
        [row["digest"], row["source"], row["tokenizer"], f"{row['tokens']:,}", f"{row['bytes'] / 1e6:.1f}"]
        for row in cached_corpora()
    ]
    print_table(f"tokenised text in {cache_root()}", columns, rows, left=tuple(columns))
    return 0
