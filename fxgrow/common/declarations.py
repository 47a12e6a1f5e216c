"""Declarations as the source has them: classes and functions with fields, defaults and docstrings, none of their code run.

What lives here: a reader for fxgrow's own modules, so that a list of passes or models does not wait for torch. What does
not: what a declaration means to a command line (cli, zoo).
"""
import ast
import importlib
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

OWN = __name__.partition(".")[0]


class Foreign(type):
    """The type of a class that stands for anything of another package, torch's say: no option can have its kind."""

    def __getattr__(cls, name: str) -> "Foreign":
        if name.startswith("__"):
            raise AttributeError(name)
        return Foreign(name, (), {})


class Declarations(dict[str, Any]):
    """The names of one of fxgrow's modules, each worked out from the source when it is first asked for.

    A class has its docstring, fields and decorators, a function its docstring, arguments and defaults; of other assignments
    the value is computed. Names from the standard library are imported, those of fxgrow's modules read in the same way.

    Raises:
        KeyError: the module has no such name on its top level.
    """

    def __init__(self, module: str):
        super().__init__()
        spec = _spec(module)
        self.module, self.package = module, module if spec.submodule_search_locations else module.rpartition(".")[0]
        self.nodes = dict(_bound(ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8")).body))

    def __missing__(self, name: str) -> Any:
        self[name] = value = self._made(name, self.nodes[name])
        return value

    def decorated(self, decorator: str) -> dict[str, types.FunctionType]:
        """Return the functions with a decorator of this name, whose keywords are in `made_by` of each."""
        made = {name: self[name] for name, node in self.nodes.items() if isinstance(node, ast.FunctionDef)}
        return {name: function for name, function in made.items() if decorator in function.made_by}

    def value(self, node: ast.expr) -> Any:
        """Return what an expression of this module is worth."""
        return eval(compile(ast.fix_missing_locations(ast.Expression(node)), self.module, "eval"), {}, self)

    def _made(self, name: str, node: ast.AST) -> Any:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return self._imported(name, node)
        if isinstance(node, ast.ClassDef):
            return self._class(node)
        if isinstance(node, ast.FunctionDef):
            return self._function(node)
        assert isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None, name
        return self.value(node.value)

    def _imported(self, name: str, node: ast.Import | ast.ImportFrom) -> Any:
        original = next(a.name for a in node.names if name in (a.asname, a.name.partition(".")[0]))
        if isinstance(node, ast.ImportFrom):
            above = self.package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, (above, node.module)))
        else:
            module, original = name if node.names[0].asname is None else original, ""
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names:
            found = importlib.import_module(module)
            return getattr(found, original) if original else found
        return declared(f"{module}:{original}") if top == OWN and original else Foreign(name, (), {})

    def _class(self, node: ast.ClassDef) -> type:
        """Return a class of the fields alone; bases of other packages are left out."""
        fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        bases = tuple(b for b in map(self.value, node.bases) if not isinstance(b, Foreign))
        body = {s.target.id: self.value(s.value) for s in fields if s.value is not None}  # type: ignore[union-attr]
        made = type(node.name, bases, {
            **body, "__doc__": ast.get_docstring(node), "__module__": self.module,
            "__annotations__": {s.target.id: self.value(s.annotation) for s in fields}})  # type: ignore[union-attr]
        for decorator in reversed(node.decorator_list):
            made = self.value(decorator)(made)
        return made

    def _function(self, node: ast.FunctionDef) -> types.FunctionType:
        """Return a function that does nothing; `made_by` holds the keywords of its decorators by their names."""
        made = self.value(ast.Lambda(node.args, ast.Constant(None)))
        made.__name__, made.__doc__ = node.name, ast.get_docstring(node)
        made.made_by = {}
        for decorator in node.decorator_list:
            called, keywords = (decorator.func, decorator.keywords) if isinstance(decorator, ast.Call) else (decorator, [])
            made.made_by[ast.unparse(called)] = {str(k.arg): self.value(k.value) for k in keywords}
        return made


def declared(place: str) -> Any:
    """Return what `package.module:name` declares, of one of fxgrow's modules; see `Declarations`."""
    module, _, name = place.partition(":")
    return Declarations(module)[name]


def _spec(module: str) -> ModuleSpec:
    """Find a module as importlib's `find_spec` does, which would import the packages around it."""
    above = module.rpartition(".")[0]
    path = _spec(above).submodule_search_locations if above else None
    return next(spec for finder in sys.meta_path if (spec := finder.find_spec(module, path)) is not None)


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield each name that statements bind, those in the branches of an `if` included, and the statement."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.If):
            yield from _bound(node.body)
