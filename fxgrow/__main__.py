"""`python -m fxgrow COMMAND ...`: the command line by the Python in which fxgrow is installed."""
from fxgrow.common import load_plugin, plugins

if __name__ == "__main__":
    load_plugin(plugins("console_scripts")["fxgrow"], "fxgrow")(prog_name="python -m fxgrow")
