"""Rewrites functions so that each access to an attribute, item or global calls a hook just before.

A function's source is parsed, each access in it is wrapped, and the code of the function object is
exchanged while schedules run: `self.items[key]` becomes `hook(hook(self, 1).items, 2)[key]`, where
a hook returns its first argument. The values, their order and the positions in the source stay the
same. The same rewriting serves two purposes: with every access wrapped the hooks see which tasks
touch the same memory, and with a few of them wrapped those few accesses are points, at no cost
elsewhere and equally on every CPython.

Not followed: accesses inside C functions, apart from the methods of containers; those of functions
without a source file; variables of a function that another one shares, unless it is `nonlocal`.
"""

from __future__ import annotations

import ast
import bisect
import functools
import linecache
import symtable
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from harness.schedule.trace import feasibility

HOOK = "__harness_access__"  # a name that is not mangled in classes
_GENERATOR = "_harness_generator"  # what identifies a generator: a list in a variable of its own
_STEPPING = frozenset({"enumerate", "filter", "map", "zip"})  # step through their arguments
_CHANGING = frozenset(  # functions of C that change their first argument
    {
        *("heapify", "heappop", "heappush", "heappushpop", "heapreplace"),
        *("insort", "insort_left", "insort_right", "shuffle"),
    }
)
NAMED = {"getattr": False, "hasattr": False, "setattr": True, "delattr": True}  # whether it writes
MEMO = type(functools.lru_cache(len))
_MEMO = frozenset({"cache", "lru_cache", "cached_property"})
CHANGES = frozenset(  # the methods of containers that change them
    {
        *("add", "append", "appendleft", "clear", "difference_update", "discard", "extend"),
        *("extendleft", "insert", "intersection_update", "move_to_end", "pop", "popitem"),
        *("popleft", "remove", "reverse", "rotate", "setdefault", "sort", "subtract"),
        *("symmetric_difference_update", "update"),
    }
)


@dataclass(frozen=True, slots=True)
class Site:
    """One access in the source: the place of a point."""

    module: str
    file: str
    function: str
    line: int
    column: int
    kind: str  # attribute, named, method, item, value, global, closure, generator, memo, call
    name: str  # of the attribute, method or variable
    writes: bool
    text: str  # the access in the source
    feasible: bool  # whether CPython with its global lock can switch just before
    loops: bool = False  # whether a loop steps through the value

    @property
    def key(self) -> str:
        """What identifies the site in a stored finding, if the module has not changed."""
        act = "write" if self.writes else "read"
        return f"{self.module}:{self.line}:{self.column}:{self.kind}:{act}"

    @property
    def where(self) -> str:
        """The file and the line."""
        return f"{self.file.rpartition('/')[2]}:{self.line}"

    @property
    def label(self) -> str:
        """The displayed name of a point."""
        return self.text


@dataclass(frozen=True, slots=True)
class _Part:
    """The lines of one statement of a module, and whether it says how all others compile."""

    first: int
    last: int
    is_future: bool

    @classmethod
    def of(cls, node: ast.stmt) -> _Part:
        """The lines of a statement, with its decorators."""
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        return cls(first, node.end_lineno or node.lineno, is_future)


class Source:
    """The parsed source of a module, which is compiled with hooks at all or some accesses."""

    def __init__(self, module: ModuleType, file: str) -> None:
        """Parse it. Raises OSError or SyntaxError where there is no source that compiles."""
        self.module = module.__name__
        self.file = file
        text = "".join(linecache.getlines(file, vars(module)))
        if not text and Path(file).stat().st_size:
            raise OSError(f"{file} has no source")
        self._text = text
        original = compile(text, file, "exec", dont_inherit=True)
        self._codes = dict(_by_place(original))
        self._lines = text.split("\n")
        self._feasible: dict[tuple[str, int], Mapping[tuple[int, int, bool], bool]] = {}
        self._tables: dict[tuple[str, int], symtable.SymbolTable] = {}
        self._globals: set[str] = set()
        self._nonlocals: set[str] = set()
        self._read_tables(symtable.symtable(text, file, "exec"))
        tree = ast.parse(text, file)
        self._parts = [_Part.of(statement) for statement in tree.body]
        self._memos = {
            *(
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef) and _memo(node)
            ),
            *(name for name, value in vars(module).items() if type(value) is MEMO),
        }

    def compiled(
        self, number: Callable[[Site], int], wanted: Collection[str] | None = None
    ) -> Mapping[tuple[str, int], CodeType]:
        """Compile with hooks at the wanted sites, by key, or at all; `number` numbers a site.

        Returns the code of each function that has a hook, by its qualified name and first line.
        """
        text = self._text if wanted is None else self._with_sites(wanted)
        tree = ast.parse(text, self.file)
        _Rewriter(self, number, wanted).visit(tree)
        ast.fix_missing_locations(tree)
        code = compile(tree, self.file, "exec", dont_inherit=True)
        return {key: inner for key, inner in _by_place(code) if _has_hook(inner)}

    def _with_sites(self, wanted: Collection[str]) -> str:
        """The source with empty lines for what has none of these sites: a module may be large."""
        sites = sorted({int(key.rsplit(":", 4)[1]) for key in wanted})
        lines = [""] * len(self._lines)
        for part in self._parts:
            at = bisect.bisect_left(sites, part.first)
            if part.is_future or (at < len(sites) and sites[at] <= part.last):
                lines[part.first - 1 : part.last] = self._lines[part.first - 1 : part.last]
        return "\n".join(lines)

    def _read_tables(self, table: symtable.SymbolTable) -> None:
        for inner in table.get_children():
            self._tables.setdefault((inner.get_name(), inner.get_lineno()), inner)
            self._read_tables(inner)
        for symbol in table.get_symbols():
            if symbol.is_declared_global():
                self._globals.add(symbol.get_name())
            elif symbol.is_nonlocal():
                self._nonlocals.add(symbol.get_name())

    def is_memo(self, name: str) -> bool:
        """Whether a name may be that of a function whose results `functools` keeps."""
        return name in self._memos

    def text(self, node: ast.expr) -> str:
        """The source of an expression, which is shortened where it has several lines."""
        line = self._lines[node.lineno - 1].encode()
        end = node.end_col_offset if node.end_lineno == node.lineno else len(line)
        return line[node.col_offset : end].decode(errors="replace")

    def feasible(self, function: tuple[str, int], node: ast.expr, *, writes: bool) -> bool:
        """Whether CPython can switch just before an expression's access."""
        table = self._feasible.get(function)
        if table is None:
            code = self._codes.get(function)
            table = self._feasible[function] = {} if code is None else feasibility(code)
        end = (node.end_lineno or 0, node.end_col_offset or 0, writes)
        return table.get(end, table.get((node.lineno, -1, writes), False))

    def shared(self, function: tuple[str, int], name: str) -> str:
        """Return whether a variable of a function is rebound by others: global, closure or ""."""
        table = self._tables.get(function)
        if table is None or (name not in self._globals and name not in self._nonlocals):
            return ""
        try:
            symbol = table.lookup(name)
        except KeyError:
            return ""  # a variable of a comprehension
        if symbol.is_global():
            return "global" if name in self._globals else ""
        return "closure" if name in self._nonlocals else ""


def _by_place(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """Yield every code object of a function by name and line, if only one has them."""
    found: dict[tuple[str, int], list[CodeType]] = {}
    todo = [code]
    while todo:
        current = todo.pop()
        for inner in current.co_consts:
            if isinstance(inner, CodeType):
                todo.append(inner)
                key = (inner.co_qualname, inner.co_firstlineno)
                found.setdefault(key, []).append(inner)
    for key, codes in found.items():
        if len(codes) == 1:
            yield key, codes[0]


def _has_hook(code: CodeType) -> bool:
    return HOOK in code.co_names or any(
        _has_hook(inner) for inner in code.co_consts if isinstance(inner, CodeType)
    )


class _Rewriter(ast.NodeTransformer):
    """Wraps accesses inside functions; the code of modules and classes has run before."""

    def __init__(
        self, source: Source, number: Callable[[Site], int], wanted: Collection[str] | None
    ) -> None:
        self._source = source
        self._number = number
        self._wanted = wanted
        self._names: list[str] = []  # the qualified name of the current scope, in parts
        self._functions: list[tuple[str, int]] = []
        self._tables: list[tuple[str, int]] = []
        self._temporaries = 0
        self._generator = False  # whether the current function is one

    # -- scopes ----------------------------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        """Rewrite the methods only."""
        self._names.append(node.name)
        outer, self._functions = self._functions, []  # a class body is no function
        node.body = [self._only_functions(statement) for statement in node.body]
        self._functions = outer
        self._names.pop()
        return node

    def _only_functions(self, statement: ast.stmt) -> Any:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return self.visit(statement)
        return statement

    def visit_FunctionDef(self, node: Any) -> Any:
        """Rewrite the body."""
        line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        self._names.append(node.name)
        self._functions.append((".".join(self._names), line))
        self._names.append("<locals>")
        self._tables.append((node.name, node.lineno))
        outer, self._generator = self._generator, _is_generator(node)
        first = self._begin(node)
        node.body = first + [new for old in node.body for new in _listed(self.visit(old))]
        self._generator = outer
        self._tables.pop()
        self._names.pop()
        self._functions.pop()
        self._names.pop()
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - a visitor's name

    def _begin(self, node: Any) -> list[ast.stmt]:
        """Return what comes first in a function that keeps a state of its own, or a result."""
        new: list[ast.stmt] = []
        if self._generator:
            token = ast.Assign([ast.Name(_GENERATOR, ast.Store())], ast.List([], ast.Load()))
            access = self._resumed(node)
            new += [] if access is None else [token, ast.Expr(access)]
            if self._wanted is not None and not new and self._wants_in(node):
                new.append(token)
        kind = _memo(node)
        if kind:
            owner = node.args.args[0].arg if kind == "cached_property" and node.args.args else ""
            subject = ast.Name(owner, ast.Load()) if owner else ast.Constant(value=True)
            text = f"the result of {node.name}"
            access = self._hooked(
                ast.copy_location(subject, node), node, "memo", node.name, text, writes=True
            )
            new += [ast.Expr(access)] if isinstance(access, ast.Call) else []
        for statement in new:
            for inner in ast.walk(statement):
                if isinstance(inner, ast.expr | ast.stmt):
                    inner.lineno = inner.end_lineno = node.lineno
                    inner.col_offset = inner.end_col_offset = node.col_offset
        return new

    def _wants_in(self, node: Any) -> bool:
        """Return whether a site after a `yield` of this generator is wanted."""
        lines = {inner.lineno for inner in _own(node) if isinstance(inner, ast.Yield)}
        return any(
            key.endswith(":generator:write") and int(key.split(":")[1]) in lines
            for key in self._wanted or ()
        )

    def _resumed(self, node: Any) -> ast.expr | None:
        """Return the access to a generator's state where it begins or goes on, if wanted."""
        text = f"the state of generator {self._names[-2] if self._names[-1:] else ''}"
        token = ast.copy_location(ast.Name(id=_GENERATOR, ctx=ast.Load()), node)
        access = self._hooked(token, node, "generator", "", text, writes=True)
        return None if access is token else access

    def visit_Yield(self, node: ast.Yield) -> Any:
        """`yield x`: what comes next uses the generator's state."""
        self.generic_visit(node)
        access = self._resumed(node) if self._generator else None
        if access is None:
            return node
        pair = ast.Tuple(elts=[node, access], ctx=ast.Load())
        first = ast.Subscript(value=pair, slice=ast.Constant(value=0), ctx=ast.Load())
        return ast.copy_location(first, node)

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        """Rewrite the body."""
        self._names.append("<lambda>")
        self._functions.append((".".join(self._names), node.lineno))
        self._names.append("<locals>")
        self._tables.append(("lambda", node.lineno))
        outer, self._generator = self._generator, False
        node.body = self.visit(node.body)
        self._generator = outer
        self._tables.pop()
        self._names.pop()
        self._functions.pop()
        self._names.pop()
        return node

    def visit_match_case(self, node: Any) -> Any:
        """Leave the pattern, in which an attribute must stay one."""
        if node.guard is not None:
            node.guard = self.visit(node.guard)
        node.body = [new for statement in node.body for new in _listed(self.visit(statement))]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        """Leave the annotation."""
        if node.value is not None:
            node.value = self.visit(node.value)
            node.target = self.visit(node.target)
        return node

    # -- accesses --------------------------------------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        """`x.name`: hook x."""
        return self._attribute(node, "attribute")

    def _attribute(self, node: ast.Attribute, kind: str) -> Any:
        text = self._source.text(node)
        writes = not isinstance(node.ctx, ast.Load) or (kind == "method" and node.attr in CHANGES)
        node.value = self._hooked(
            self.visit(node.value), node, kind, node.attr, text, writes=writes
        )
        return node

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        """`x[key]`: hook x."""
        text = self._source.text(node)
        writes = not isinstance(node.ctx, ast.Load)
        name = {"Load": "__getitem__", "Store": "__setitem__"}.get(type(node.ctx).__name__)
        container = self.visit(node.value)
        node.value = self._hooked(
            container, node, "item", name or "__delitem__", text, writes=writes
        )
        node.slice = self.visit(node.slice)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        """`x.method(...)`: hook x; arguments that are containers may be read inside."""
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return node
        text = self._source.text(node)
        if isinstance(node.func, ast.Attribute):
            node.func = self._attribute(node.func, "method")
        else:
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            func = node.func = self.visit(node.func)
            if self._source.is_memo(name):
                node.func = self._hooked(func, node, "call", name, text, writes=False)
            if _is_named(node):
                return self._named(node, text)
        changes = _called_name(node) in _CHANGING
        node.args = [
            self._value(argument, writes=changes and not index)
            for index, argument in enumerate(node.args)
        ]
        for keyword in node.keywords:
            keyword.value = self._value(keyword.value)
        return node

    def _named(self, node: Any, text: str) -> Any:
        """`getattr(x, name)` and its like: hook all of the arguments, when they are known."""
        name = node.func.id
        node.args = [self._value(argument) for argument in node.args]
        given = ast.copy_location(ast.Tuple(elts=node.args, ctx=ast.Load()), node)
        hooked = self._hooked(given, node, "named", "", text, writes=NAMED[name])
        if hooked is not given:
            node.args = [ast.copy_location(ast.Starred(value=hooked, ctx=ast.Load()), node)]
        return node

    def visit_Name(self, node: ast.Name) -> Any:
        """Read a variable that functions rebind: hook first."""
        kind = self._shared(node.id)
        if not kind or not isinstance(node.ctx, ast.Load):
            return node
        subject = self._variable(node, kind)
        hook = self._hooked(subject, node, kind, node.id, node.id, writes=False)
        if hook is subject:
            return node
        return ast.copy_location(ast.IfExp(test=hook, body=node, orelse=node), node)

    def _variable(self, node: ast.Name, kind: str) -> ast.expr:
        """Return an expression that is true, and identifies the variable of a closure by a cell."""
        if kind == "global":
            return ast.copy_location(ast.Constant(value=True), node)
        arguments = ast.arguments(
            posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]
        )
        read = ast.copy_location(ast.Name(id=node.id, ctx=ast.Load()), node)
        return ast.copy_location(ast.Lambda(args=arguments, body=read), node)

    def _shared(self, name: str) -> str:
        return self._source.shared(self._tables[-1], name) if self._functions else ""

    def _looped(self, node: Any) -> Any:
        """Visit an expression through whose value a loop steps."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # such as a view
            text = self._source.text(node)
            new = self.visit(node)
            return self._hooked(new, node, "value", "", text, writes=False, loops=True)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _STEPPING:
            node.args = [self._looped(argument) for argument in node.args]
            return node
        return self._value(node, loops=True)

    def _value(self, node: Any, *, loops: bool = False, writes: bool = False) -> Any:
        """Visit an expression whose value, if it is a container, is read as a whole here."""
        if isinstance(node, ast.Starred):
            node.value = self._value(node.value)
            return node
        if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            return self.visit(node)
        text = self._source.text(node)
        return self._hooked(self.visit(node), node, "value", "", text, writes=writes, loops=loops)

    def visit_Compare(self, node: ast.Compare) -> Any:
        """`x in items`: the items are read."""
        node.left = self._value(node.left)
        node.comparators = [self._value(comparator) for comparator in node.comparators]
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        """`not items`: the items are read."""
        node.operand = self._value(node.operand)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        """`items or ...`: the items are read."""
        node.values = [self._value(operand) for operand in node.values]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        """`items + ...`: the items are read."""
        node.left, node.right = self._value(node.left), self._value(node.right)
        return node

    def visit_FormattedValue(self, node: Any) -> Any:
        """`f"{items}"`: the items are read."""
        node.value = self._value(node.value)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        """`for x in items`: the items are read, one after the other."""
        node.iter = self._looped(node.iter)
        node.target = self.visit(node.target)
        node.ifs = [self._value(condition) for condition in node.ifs]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        """`... if items else ...`: the items are read."""
        node.test = self._value(node.test)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def _tested(self, node: Any) -> Any:
        """Visit a statement whose test may read items."""
        test = self._value(node.test)
        node.test = ast.copy_location(ast.Constant(value=True), node)
        self.generic_visit(node)
        node.test = test
        return node

    visit_If = _tested  # noqa: N815 - a visitor's name
    visit_While = _tested  # noqa: N815 - a visitor's name
    visit_Assert = _tested  # noqa: N815 - a visitor's name

    def _iterated(self, node: Any) -> Any:
        """Visit a loop, which reads items one after the other."""
        items = self._looped(node.iter)
        node.iter = ast.copy_location(ast.Constant(value=None), node)
        self.generic_visit(node)
        node.iter = items
        return node

    visit_For = _iterated  # noqa: N815 - a visitor's name

    def visit_Assign(self, node: ast.Assign) -> Any:
        """Write a variable that functions rebind: hook after the value is known."""
        node.value = self.visit(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                node.value = self._rebinding(target, node.value)
        node.targets = [self.visit(target) for target in node.targets]
        return node

    def _rebinding(self, target: ast.Name, value: ast.expr) -> ast.expr:
        kind = self._shared(target.id)
        if not kind:
            return value
        subject = self._variable(target, kind)
        hook = self._hooked(subject, target, kind, target.id, target.id, writes=True)
        if hook is subject:
            return value
        # The value is evaluated first: (value, hook)[0].
        pair = ast.Tuple(elts=[value, hook], ctx=ast.Load())
        first = ast.Subscript(value=pair, slice=ast.Constant(value=0), ctx=ast.Load())
        return ast.copy_location(first, value)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        """`x.name += value`: a read and a write, with a hook each."""
        target = node.target
        is_wrapped = self._functions and (
            isinstance(target, ast.Attribute)
            or (isinstance(target, ast.Subscript) and not _has_slice(target))
            or (isinstance(target, ast.Name) and self._shared(target.id))
        )
        if not is_wrapped or not self._wants_any(target):
            node.value = self.visit(node.value)
            return node
        self._temporaries += 1
        subject, key, result = (f"_harness_{part}_{self._temporaries}" for part in "ski")
        new: list[ast.stmt] = []
        names = [result]

        def store(name: str, value: ast.expr) -> None:
            new.append(ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=value))

        def load(name: str) -> ast.expr:
            return ast.Name(id=name, ctx=ast.Load())

        text = self._source.text(target)
        if isinstance(target, ast.Name):
            read = self.visit_Name(ast.copy_location(ast.Name(target.id, ast.Load()), target))
            write: ast.expr = target
        else:
            names.append(subject)
            store(subject, self.visit(target.value))
            if isinstance(target, ast.Attribute):
                got = self._hooked(
                    load(subject), target, "attribute", target.attr, text, writes=False
                )
                put = self._hooked(
                    load(subject), target, "attribute", target.attr, text, writes=True
                )
                read = ast.Attribute(value=got, attr=target.attr, ctx=ast.Load())
                write = ast.Attribute(value=put, attr=target.attr, ctx=ast.Store())
            else:
                names.append(key)
                store(key, self.visit(target.slice))
                got = self._hooked(load(subject), target, "item", "__getitem__", text, writes=False)
                put = self._hooked(load(subject), target, "item", "__setitem__", text, writes=True)
                read = ast.Subscript(value=got, slice=load(key), ctx=ast.Load())
                write = ast.Subscript(value=put, slice=load(key), ctx=ast.Store())
        store(result, read)
        change = ast.Name(id=result, ctx=ast.Store())
        new.append(ast.AugAssign(target=change, op=node.op, value=self.visit(node.value)))
        value = load(result)
        if isinstance(target, ast.Name):
            value = self._rebinding(target, value)
        new.append(ast.Assign(targets=[write], value=value))
        new.append(ast.Delete(targets=[ast.Name(id=name, ctx=ast.Del()) for name in names]))
        for statement in new:
            for inner in ast.walk(statement):
                if not hasattr(inner, "lineno"):
                    ast.copy_location(inner, target)
        return new

    def _wants_any(self, node: ast.expr) -> bool:
        """Return whether a site at this expression is wanted, of any kind."""
        if self._wanted is None:
            return True
        start = f"{self._source.module}:{node.lineno}:{node.end_col_offset}:"
        return any(key.startswith(start) for key in self._wanted)

    def _hooked(  # noqa: PLR0913 - the parts of a site
        self,
        subject: Any,
        node: Any,
        kind: str,
        name: str,
        text: str,
        *,
        writes: bool,
        loops: bool = False,
    ) -> Any:
        """Wrap an expression in a call of the hook, if the site is wanted."""
        if not self._functions:
            return subject
        function = self._functions[-1]
        site = Site(
            module=self._source.module,
            file=self._source.file,
            function=function[0],
            line=node.lineno,
            column=node.end_col_offset,
            kind=kind,
            name=name,
            writes=writes,
            text=text,
            feasible=kind in {"generator", "memo"}
            or self._source.feasible(
                function,
                node.func if kind == "named" else node,  # what is loaded in between is no access
                writes=writes and kind not in {"method", "named", "value"},
            ),
            loops=loops,
        )
        if self._wanted is not None and site.key not in self._wanted:
            return subject
        hook = ast.copy_location(ast.Name(id=HOOK, ctx=ast.Load()), node)
        number = ast.copy_location(ast.Constant(value=self._number(site)), node)
        call = ast.Call(func=hook, args=[subject, number], keywords=[])
        return ast.copy_location(call, node)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function that are not those of an inner one."""
    for inner in ast.iter_child_nodes(node):
        yield inner
        if not isinstance(
            inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
        ):
            yield from _own(inner)


def _is_generator(node: Any) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(inner, ast.Yield) for statement in node.body for inner in _own_all(statement)
    )


def _own_all(statement: ast.AST) -> Iterator[ast.AST]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    yield from _own(statement)


def _memo(node: Any) -> str:
    """Return the decorator of a function that keeps its results: lru_cache, cached_property."""
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in _MEMO:
            return str(name)
    return ""


def _called_name(node: ast.Call) -> str:
    """Return the last name of what is called."""
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def _is_named(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Name)
        and node.func.id in NAMED
        and len(node.args) > 1
        and not node.keywords
        and not any(isinstance(argument, ast.Starred) for argument in node.args)
    )


def _has_slice(node: ast.Subscript) -> bool:
    return any(isinstance(inner, ast.Slice) for inner in ast.walk(node.slice))


def _listed(node: Any) -> list[Any]:
    return node if isinstance(node, list) else [node]
