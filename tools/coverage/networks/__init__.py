"""The networks that are measured: one file a package, each with a table of how they are built and called."""
