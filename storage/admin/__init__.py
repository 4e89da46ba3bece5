"""Looking after a workspace: status, checks, queries, removal of what is old."""
