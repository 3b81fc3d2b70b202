"""Tasks: problems in known languages and of reasoning-gym, a reader of their answers, and an exact checker."""
