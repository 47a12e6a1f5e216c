"""Tables as plain text."""

def render(table, width: int = 160) -> str:
    """Print a rich table as plain text."""
    import io

    from rich.console import Console
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]
