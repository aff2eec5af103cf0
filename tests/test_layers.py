"""Who may import whom, and what no file may do: the house rules as a table and as checks of the source."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.disk.home import home
from tests.support.small_data_set import write_data_set

ROOT = home()
# Who may import whom, room by room, from the bottom up. A name without a dot is a whole package. Files that lie beside
# the rooms of a package (`train.run`) are rooms of their own.
SHARDS = {"shards.disk", "shards.labels", "shards.set", "shards.stream", "shards.views"}
CLUSTER = {
    "cluster.code",
    "cluster.completion",
    "cluster.console",
    "cluster.doctor",
    "cluster.fan_out",
    "cluster.process",
    "cluster.ranks",
    "cluster.recipes",
    "cluster.submit",
    "cluster.waiting",
}
BELOW_GEN = SHARDS | CLUSTER
ROOF = {"shards", "cluster", "gen", "retrieve", "train"}
MAY_IMPORT: dict[str, set[str]] = {
    "shards.disk": set(),
    "shards.set": {"shards.disk"},
    "shards.labels": {"shards.disk", "shards.set"},
    "shards.stream": {"shards.disk", "shards.labels", "shards.set"},
    "shards.views": {"shards.disk", "shards.labels", "shards.set"},
    "cluster.code": {"shards.disk"},
    "cluster.process": {"shards.disk"},
    "cluster.recipes": {"shards.disk"},
    "cluster.completion": set(),
    "cluster.waiting": {"shards.disk"},
    "cluster.console": {"cluster.recipes", "cluster.waiting", "shards.disk"},
    "cluster.doctor": {"cluster.process", "shards.disk"},
    "cluster.fan_out": {"cluster.code", "cluster.process", "cluster.recipes", "cluster.waiting", "shards.disk"},
    "cluster.ranks": {"cluster.code", "cluster.fan_out", "cluster.process", "cluster.waiting", "shards.disk"},
    "cluster.submit": {
        *("cluster.code", "cluster.console", "cluster.fan_out", "cluster.process", "cluster.recipes"),
        *("cluster.waiting", "shards.disk"),
    },
    "gen.names": {"shards.labels"},
    "gen.model": {"shards.disk"},
    "gen.llm": {*BELOW_GEN, "gen.model"},
    "gen.wording": {*BELOW_GEN, "gen.llm", "gen.names"},
    "gen.prompts": {*BELOW_GEN, "gen.llm", "gen.model", "gen.names", "gen.wording"},
    "gen.make": {
        "shards.disk",
        "shards.set",
        "cluster.fan_out",
        "cluster.process",
        "cluster.recipes",
        "cluster.waiting",
    },
    "gen.sampler": {*BELOW_GEN, "gen.make", "gen.model", "gen.prompts"},
    "gen.invert": {*BELOW_GEN, "gen.model", "gen.sampler", "gen.wording"},
    "gen.run": {
        *BELOW_GEN,
        *("gen.llm", "gen.make", "gen.model", "gen.prompts", "gen.sampler", "gen.wording"),
    },
    "gen.edit": {
        *BELOW_GEN,
        *("gen.llm", "gen.make", "gen.model", "gen.names", "gen.prompts", "gen.run", "gen.sampler", "gen.wording"),
    },
    "retrieve.pool": {*BELOW_GEN, "gen.model"},
    "retrieve.captions": {*BELOW_GEN, "retrieve.pool"},
    "retrieve.scan": {*BELOW_GEN, "retrieve.pool"},
    "retrieve.embed": {*BELOW_GEN, "gen.make", "gen.model", "retrieve.pool"},
    "retrieve.index": {*BELOW_GEN, "gen.make", "retrieve.pool", "retrieve.scan"},
    "retrieve.dedup": {*BELOW_GEN, "gen.model"},
    "retrieve.filter": {*BELOW_GEN, "gen.model", "retrieve.dedup"},
    "retrieve.download": BELOW_GEN,
    "retrieve.make": {*BELOW_GEN, "gen.make", "gen.prompts", "retrieve.download", "retrieve.pool"},
    "retrieve.run": {
        *BELOW_GEN,
        *("gen.make", "gen.model", "gen.prompts", "gen.wording"),
        *("retrieve.captions", "retrieve.dedup", "retrieve.download", "retrieve.filter", "retrieve.index"),
        *("retrieve.make", "retrieve.pool", "retrieve.scan"),
    },
    "retrieve.serve": {
        *BELOW_GEN,
        *("gen.model", "gen.prompts", "retrieve.dedup", "retrieve.index", "retrieve.pool", "retrieve.scan"),
    },
    "train.model": {*BELOW_GEN, "gen.model", "gen.names"},
    "train.evaluate": {*BELOW_GEN, "gen.model", "gen.names", "train.model"},
    "train.stage": {*BELOW_GEN, "train.evaluate", "train.model"},
    "train.recipe": {*BELOW_GEN, "gen.invert", "train.evaluate", "train.model", "train.stage"},
    "train.sources": {*BELOW_GEN, "gen.invert", "train.evaluate", "train.model", "train.recipe"},
    "train.task": {
        *BELOW_GEN,
        *("gen.invert", "gen.model", "gen.names", "train.evaluate", "train.model", "train.recipe"),
    },
    "train.session": {*BELOW_GEN, "train.evaluate", "train.model", "train.recipe", "train.task"},
    "train.run": {*BELOW_GEN, "train.recipe", "train.session", "train.task"},
    "train.program": {*BELOW_GEN, "train.recipe", "train.run"},
    "train.sweep": {*BELOW_GEN, "train.evaluate", "train.recipe"},
    "train.report": {*BELOW_GEN, "train.evaluate"},
    "sandbox": {"shards", "cluster", "gen", "retrieve", "train"},
    # the roof: the command line and the verbs that stand beside their owners
    "sixfold": ROOF,
    "cluster.forecast": ROOF,
    "cluster.verbs": ROOF,
    "gen.verbs": ROOF,
    "retrieve.verbs": ROOF,
    "shards.gallery_page": ROOF,
    "shards.verbs": ROOF,
    "shards.watch": ROOF,
    "train.verbs": ROOF,
}
PACKAGES = ["shards", "cluster", "gen", "retrieve", "train", "sandbox"]
LOADS_OBJECTS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}
WAITING_PROGRAMS = {"subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
HEAVY = ("torch", "diffusers", "transformers", "ray", "timm", "open_clip", "datasets", "deepspeed", "faiss")
DOCUMENTED = 0.90  # the least share of public functions, classes and methods that have a docstring
LONGEST_FILE = 450  # lines; a longer file gives its reason in a sentence of its first docstring
REASON = re.compile(r"(^|[.:]\s+|\n)Long because\b")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def sources() -> list[Path]:
    return [*(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))), ROOT / "sixfold.py"]


def owner(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called, as written; "" stands for an expression."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all imports, also of those inside functions."""
    return {name.partition(".")[0] for name in imported_modules(tree)}


def imported_modules(tree: ast.AST) -> set[str]:
    """Dotted names of all imports, also of those inside functions; `from a.b import c` gives a.b and a.b.c."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def imports_by_file() -> dict[str, set[str]]:
    """Of each of our files, by dotted name: those of ours that it imports; itself and docstrings of rooms left out."""
    ours = {module_of(path) for path in sources() if path.name != "__init__.py"}
    trees = {module_of(path): tree_of(path) for path in sources()}
    return {name: (imported_modules(tree) & ours) - {name} for name, tree in trees.items()}


def room_of(module: str) -> str:
    """`shards.disk.tar` is in the room `shards.disk`, `sandbox.world` in `sandbox`."""
    parts = module.split(".")
    return parts[0] if parts[0] in MAY_IMPORT else ".".join(parts[:2])


def public_definitions(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions, classes and methods whose own names have no leading underscore, with dotted names.

    Methods of private classes and properties count too; what is inside a function does not.
    """
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.name.startswith("_"):
                yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node, f"{prefix}{node.name}.")


def safe_loaders(tree: ast.AST) -> set[str]:
    """YAML's safe loaders and the classes of this file that are made of one."""
    known = set(SAFE_LOADERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and {dotted(base).rpartition(".")[2] for base in node.bases} & known:
            known.add(node.name)
    return known


def dangers(tree: ast.AST) -> Iterator[str]:
    """Everything that would turn data into code."""
    yield from (f"import {name}" for name in sorted(imported(tree) & LOADS_OBJECTS))
    loaders = safe_loaders(tree)
    for call, name in calls(tree):
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if name in RUNS_TEXT or name in {f"builtins.{text}" for text in RUNS_TEXT} or name in SHELLS:
            yield f"{name}(...)"
        for word in ("shell", "trust_remote_code", "allow_pickle"):
            if word in keywords and not is_constant(keywords[word], False):
                yield f"{word}=..."
        if name == "yaml.load" or name.startswith(("yaml.full_load", "yaml.unsafe_load", "yaml.load_all")):
            given = [*call.args[1:2], *[value for word, value in keywords.items() if word == "Loader"]]
            if not given or dotted(given[0]).rpartition(".")[2] not in loaders:
                yield f"{name} without a safe loader"
        if name == "torch.load" and not is_constant(keywords.get("weights_only"), True):
            yield "torch.load without weights_only=True"
        if name.endswith((".extractall", ".extract")):
            yield f"{name}(...) unpacks an archive"


def endless_waits(tree: ast.AST) -> Iterator[str]:
    """Every wait that names no time-out.

    ``x.join()``, ``x.wait()``, ``x.result()`` and ``x.get()`` without an argument wait for ever; text's ``join`` and
    a dict's ``get`` have one.
    """
    for call, name in calls(tree):
        has_timeout = any(keyword.arg in ("timeout", "timeout_s") for keyword in call.keywords)
        method = name.rpartition(".")[2]
        if name in ("ray.get", "ray.wait", "futures.wait", "concurrent.futures.wait") or name in WAITING_PROGRAMS:
            waits = not has_timeout
        elif method in ("wait", "join", "result", "get") and "." in name:
            waits = not call.args and not has_timeout
        elif method in ("as_completed", "communicate"):
            waits = not has_timeout
        else:
            waits = False
        if waits:
            yield f"line {call.lineno}: {ast.unparse(call)[:80]}"


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def modules_after(program: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``program``."""
    code = f"{program}\nimport sys\nprint('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    for name, needs in imports_by_file().items():
        if room_of(name) == room:
            strangers = {one for one in needs if not {room_of(one), one.partition(".")[0]} & allowed}
            assert not strangers, f"{name} imports them, {room} may import {sorted(MAY_IMPORT[room])}"


def test_every_file_is_in_a_room_of_the_table() -> None:
    assert {room_of(name) for name in imports_by_file()} - set(PACKAGES) <= MAY_IMPORT.keys()


def test_no_installed_package_has_a_module_of_one_of_our_names() -> None:
    """A worker's path has the installed packages before a checkout: their `tests` would be found, and ours missed."""
    of = importlib.metadata.packages_distributions()
    found = {name: set(of.get(name, ())) - {"sixfold"} for name in (*ROOF, "sandbox", "sixfold", "tests", "docs")}
    assert {name: others for name, others in found.items() if others} == {}


def test_only_the_roof_imports_verbs() -> None:
    users = {name for name, needs in imports_by_file().items() if any(one.endswith(".verbs") for one in needs)}
    assert users <= {"sixfold", "gen.verbs", "retrieve.verbs"}  # what was made is shown by the verb that shows


def test_no_two_files_need_each_other() -> None:
    """No cycle of imports, those inside functions included."""
    waiting = imports_by_file()
    while free := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert not waiting, f"found a cycle among {sorted(waiting)}"


def test_a_session_knows_of_its_task_only_what_every_task_has() -> None:
    """No Task by name, no model: these are for `train.run` to bring together."""
    for name, needs in imports_by_file().items():
        if room_of(name) == "train.session":
            assert {one for one in needs if room_of(one) == "train.task"} <= {"train.task.task"}
    assert not {
        one
        for one in imports_by_file()["train.session.session"]
        if one in ("train.model.aux_bn", "train.model.bn_statistics", "train.model.classifiers", "train.model.input")
    }


def test_only_cluster_imports_ray() -> None:
    users = {owner(path) for path in sources() if "ray" in imported(tree_of(path))}
    assert users <= {"cluster"}


def test_the_sampler_runs_on_a_machine_without_ray_deepspeed_and_faiss() -> None:
    assert not modules_after("import gen.sampler.sampler") & {"ray", "deepspeed", "faiss"}


def test_shards_need_no_model_library() -> None:
    modules = ", ".join(module_of(path) for path in sources() if owner(path) == "shards")
    assert not modules_after(f"import {modules}") & set(HEAVY)


def test_the_status_of_a_data_set_is_told_from_records_without_what_makes_images(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_shards=1, num_slots=1, num_rejected=0)
    verb = "import contextlib, typer, shards.verbs\nwith contextlib.suppress(typer.Exit): shards.verbs.status"
    loaded = modules_after(f"{verb}({str(store.root)!r})")
    assert "shards" in loaded
    assert not loaded & {"gen", "retrieve", "train", *HEAVY}


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    assert not modules_after("import sixfold") & set(HEAVY)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_turns_data_into_code(path: Path) -> None:
    assert list(dangers(tree_of(path))) == []


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_b13_no_file_waits_without_a_time_out(path: Path) -> None:
    assert list(endless_waits(tree_of(path))) == []


def printed_raw(tree: ast.Module) -> list[str]:
    """Calls that print a text as it is, without a function of `shards.disk.safe_text` around it."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        first = call.args[0] if call.args else None
        is_safe = isinstance(first, ast.Call) and ast.unparse(first.func) in ("for_screen", "one_line", "visible")
        if (name in ("print", "typer.echo") or name.endswith(("stdout.write", "stderr.write"))) and not is_safe:
            found.append(ast.unparse(call))
    return found


def test_what_a_verb_or_worker_prints_passes_the_one_place_that_makes_text_safe() -> None:
    assert len(printed_raw(ast.parse("print(name)\ntyper.echo(f'{x}')\nsys.stdout.write(x)\nprint()"))) == 4
    assert printed_raw(ast.parse("print(for_screen(name), flush=True)\nsay(name)")) == []
    ours = [path for path in sources() if path.relative_to(ROOT).parts[0] in {*ROOF, "sixfold.py"}]
    raw = {str(path.relative_to(ROOT)): found for path in ours if (found := printed_raw(tree_of(path)))}
    assert raw == {}, "use `say` of cluster.console, or for_screen"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for_and_has_a_name_of_its_own(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


def test_nine_in_ten_public_functions_classes_and_methods_have_a_docstring() -> None:
    bare: list[str] = []
    num = 0
    for path in sources():
        for name, node in public_definitions(tree_of(path)):
            num += 1
            if not ast.get_docstring(node):  # type: ignore[arg-type]
                bare.append(f"{path.relative_to(ROOT)}: {name}")
    share = 1 - len(bare) / num
    assert share >= DOCUMENTED, f"found {share:.1%} of {num}, expected {DOCUMENTED:.0%}; none at:\n" + "\n".join(bare)


def test_a_long_file_says_in_its_first_docstring_why_it_is_long() -> None:
    long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        num = text.count("\n")
        if num > LONGEST_FILE and not REASON.search(ast.get_docstring(ast.parse(text)) or ""):
            long.append(f"{path.relative_to(ROOT)}: {num} lines")
    assert not long, f"found more than {LONGEST_FILE} lines, expected `Long because …` or two files: {', '.join(long)}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(): pass\ndef _g(): pass", ["f"]),
        ("class A:\n  def f(self): pass\n  def _g(self): pass\n  def __len__(self): pass", ["A", "A.f"]),
        ("class _A:\n  @property\n  def f(self): pass\n  async def g(self): pass", ["_A.f", "_A.g"]),
        ("def f():\n  def g(): pass", ["f"]),
    ],
)
def test_public_is_what_has_no_leading_underscore(text: str, names: list[str]) -> None:
    assert [name for name, _ in public_definitions(ast.parse(text))] == names


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from dill import loads",
        "def f():\n    import pickle",
        "eval('1')",
        "exec(x)",
        "import os\nos.system('ls')",
        "subprocess.run('ls', shell=True, timeout=1)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)",
        "yaml.load(x)",
        "yaml.load(x, yaml.Loader)",
        "yaml.load(x, Loader=Mine)\nclass Mine(yaml.FullLoader): pass",
        "np.load(x, allow_pickle=True)",
        "torch.load(x)",
        "tarfile.open(x).extractall()",
    ],
)
def test_the_check_for_code_from_data_finds(text: str) -> None:
    assert list(dangers(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "yaml.safe_load(x)",
        "class Mine(yaml.SafeLoader): pass\nyaml.load(x, Loader=Mine)",
        "AutoModel.from_pretrained(x, trust_remote_code=False)",
        "torch.load(x, weights_only=True)",
        "re.compile('x')",
        "model.eval()",
    ],
)
def test_the_check_for_code_from_data_lets_pass(text: str) -> None:
    assert not list(dangers(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        *("ray.get(ref)", "ray.wait(refs, num_returns=1)", "thread.join()", "event.wait()", "future.result()"),
        *("process.communicate(b'')", "subprocess.run(['ls'])", "queue.get()", "concurrent.futures.wait(all)"),
    ],
)
def test_the_check_for_endless_waits_finds(text: str) -> None:
    assert list(endless_waits(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "ray.get(ref, timeout=5)",
            "thread.join(5)",
            "event.wait(timeout=5)",
            "future.result(timeout=1)",
            "','.join(x)",
        ),
        *("os.path.join(a, b)", "d.get('k')", "subprocess.run(['ls'], timeout=5)", "process.communicate(timeout=5)"),
    ],
)
def test_the_check_for_endless_waits_lets_pass(text: str) -> None:
    assert not list(endless_waits(ast.parse(text)))
