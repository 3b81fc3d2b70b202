"""Tasks: problems in known languages, a reader of their answers, and an exact checker."""
