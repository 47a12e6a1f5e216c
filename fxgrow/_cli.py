"""The command line by the name that scripts used before there were rooms: `from fxgrow._cli import main`."""
from fxgrow.common import load_plugin, plugins

main = load_plugin(plugins("console_scripts")["fxgrow"], "fxgrow")
