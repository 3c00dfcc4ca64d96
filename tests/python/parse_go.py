"""Parses Go files, since there is no compiler of Go; fails at what is no Go, or is not laid out with tabs.

Arguments: paths.
"""

import sys

import tree_sitter_go
from tree_sitter import Language, Parser

parser = Parser(Language(tree_sitter_go.language()))
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        source = file.read()
    root = parser.parse(source).root_node
    if root.has_error or root.named_child_count == 0:
        sys.exit(f"{path} is no Go: {root}")
    if any(line.startswith(b" ") or line.rstrip() != line for line in source.split(b"\n")):
        sys.exit(f"{path} is not laid out as gofmt does")
