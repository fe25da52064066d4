"""The house rules as ratchets: what ruff, mypy and import-linter cannot see. Lists of exceptions may only shrink.

Everything is discovered in the tree, nothing is hard-coded: a new room, op, command or recipe is held to the rules the
moment it lands.
"""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fathom"
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

# Exceptions: each entry must still be needed, or its line goes.
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}
WITHOUT_TEST: set[str] = set()


def git_files() -> list[Path]:
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def contract(name: str) -> dict:
    return next(c for c in project()["tool"]["importlinter"]["contracts"] if c["name"] == name)


def rooms() -> list[str]:
    files = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    return sorted(name for name in files if not name.startswith("__"))


# --- files and functions ---------------------------------------------------------------------------------------------


def has_code(path: Path) -> bool:
    """An __init__.py that only gathers names needs no test of its own."""
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree_of(path).body)


def mirrors(path: Path) -> list[Path]:
    inside = path.relative_to(PACKAGE)
    if path.name == "__init__.py":
        room = inside.parent
        return [ROOT / "tests" / room / f"test_{room.name}.py", ROOT / "tests" / room / "test_init.py"]
    return [ROOT / "tests" / inside.parent / f"test_{path.stem}.py"]


def test_every_file_has_its_mirror_test() -> None:
    free = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}  # public names, and one call
    tested = [path for path in sources("fathom") if path not in free and (path.name != "__init__.py" or has_code(path))]
    missing = {name_of(path) for path in tested if not any(mirror.is_file() for mirror in mirrors(path))}
    assert " ".join(sorted(missing - WITHOUT_TEST)) == "", "write tests/<room>/test_<file>.py"
    assert sorted(WITHOUT_TEST - missing) == [], "these have a test now, or are gone: take them off WITHOUT_TEST"


def test_every_folder_of_tests_is_a_room() -> None:
    free = {"agreement", "browser", "cluster", "golden", "hostile"}
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in sources("tests") if path.parent != ROOT / "tests"}
    assert sorted(folders - free - set(rooms())) == [], "no room of the package has this name; was it renamed?"


def hand_written() -> Iterator[Path]:
    for path in git_files():
        parts = path.relative_to(ROOT).parts
        ours = parts[0] in ("fathom", "tests", "scripts", "examples", "benchmarks") and "vendor" not in parts
        if ours and (path.suffix in (".py", ".c", ".h", ".js", ".css", ".html") or parts[0] == "scripts"):
            yield path


def test_files_stay_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in hand_written()}
    check_sizes({name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}, LONG_FILES)


def test_functions_stay_short() -> None:
    lengths = {}
    for path in sources("fathom", "tests"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{name_of(path)}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    check_sizes({name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES}, LONG_FUNCTIONS)


def check_sizes(found: dict[str, int], allowed: dict[str, int]) -> None:
    grown = {name: lines for name, lines in found.items() if lines > allowed.get(name, 0)}
    assert grown == {}, "too long: split it"
    assert {name: lines for name, lines in allowed.items() if found.get(name) != lines} == {}, "shorter now: lower it"


def test_every_room_says_what_it_is_for() -> None:
    for path in sources("fathom"):
        said = ast.get_docstring(tree_of(path))
        assert said, f"{name_of(path)} has no docstring"
        if path.name == "__init__.py":
            assert len(said.splitlines()) <= 12, f"{name_of(path)} opens with more than 12 lines"


# --- calls and imports -----------------------------------------------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_NAMES = {"eval", "exec", "__import__"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "yaml.load", "os.system", "os.popen"}
FORBIDDEN_KEYWORDS = {"shell", "allow_pickle", "trust_remote_code"}
# name -> where alone it may be written: what ruff's banned-api bans everywhere else
ONLY_IN = {
    "os.environ": "fathom/config/",
    "os.getenv": "fathom/config/",
    "torch.distributed": "fathom/parallel/",
    "triton": "fathom/ops/triton/",
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for name in imported(node):
            if name.split(".")[0] in FORBIDDEN_MODULES:
                yield node.lineno, f"import {name}"
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in FORBIDDEN_NAMES | FORBIDDEN_CALLS:
                yield node.lineno, name
            for keyword in node.keywords:
                if keyword.arg in FORBIDDEN_KEYWORDS and getattr(keyword.value, "value", True) is not False:
                    yield node.lineno, f"{keyword.arg}="


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "eval('1')", "exec(x)", "torch.load(f)", "yaml.load(f)",
     "os.system(c)", "run(c, shell=True)", "run(c, shell=flag)", "np.load(f, allow_pickle=True)"],
)  # fmt: skip
def test_the_search_for_dangerous_calls_finds_them(code: str) -> None:
    assert list(faults(ast.parse(code)))


def test_no_dangerous_calls_in_the_package() -> None:
    assert list(faults(ast.parse("model.eval(); run(c, shell=False); re.compile(x)"))) == []
    found = [f"{name_of(path)}:{line} {what}" for path in sources("fathom") for line, what in faults(tree_of(path))]
    assert found == []


def test_environment_processes_and_kernels_have_one_room_each() -> None:
    found = []
    for path in sources("fathom"):
        for node in ast.walk(tree_of(path)):
            names = [dotted(node)] if isinstance(node, ast.Attribute) else imported(node)
            for name in names:
                for banned, room in ONLY_IN.items():
                    if (name == banned or name.startswith(f"{banned}.")) and not name_of(path).startswith(room):
                        found.append(f"{name_of(path)}:{node.lineno} {name}")
    assert found == []


# --- walls -----------------------------------------------------------------------------------------------------------


def test_contracts_name_every_room_that_has_landed() -> None:
    layers = " | ".join(contract("Every import goes down")["layers"])
    waiting = set(re.findall(r"\((\w+)\)", layers))
    landed = set(rooms())
    assert waiting & landed == set(), "take the parentheses off in pyproject.toml"
    assert landed <= set(re.findall(r"\w+", layers))


def test_contracts_name_the_whole_thinking_half() -> None:
    thinking = {"errors", "config", "layout", "cost", "batching", "tasks", "plan", "tokenizer"}
    named = contract("The thinking half imports no torch")["source_modules"]
    assert set(named) == {f"fathom.{room}" for room in thinking if room in rooms()}


def test_rooms_do_not_go_round_the_layers_through_the_public_names() -> None:
    files = [path for path in sources("fathom") if path.parent != PACKAGE]
    names = {(name_of(path), name) for path in files for node in ast.walk(tree_of(path)) for name in imported(node)}
    public = {f"fathom.{name}" for name in importlib.import_module("fathom").__all__} - {"fathom.__version__"}
    assert [pair for pair in sorted(names) if pair[1] in public] == []


def front_modules() -> list[str]:
    files = [path for path in sources("fathom/serve") if path.name not in ("__init__.py", "worker.py")]
    return sorted("fathom." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in files)


def test_contracts_name_the_whole_front_of_the_server() -> None:
    if not front_modules():
        pytest.skip("no server yet")
    named = contract("The front of the server imports no torch, engine or model")["source_modules"]
    assert sorted(named) == front_modules(), "every file of serve/ but worker.py is listed in pyproject.toml"


def test_backends_are_protected() -> None:
    if "ops" not in rooms():
        pytest.skip("no ops yet")
    protected = contract("Only fathom.ops reaches a backend")["protected_modules"]
    files = {"reference": "reference.py", "cpu": "cpu/__init__.py", "triton": "triton/__init__.py"}
    backends = [name for name, file in files.items() if (PACKAGE / "ops" / file).is_file()]
    assert protected == [f"fathom.ops.{name}" for name in backends]


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_thinking_half_loads_no_torch() -> None:
    modules = [*contract("The thinking half imports no torch")["source_modules"], *front_modules(), "fathom"]
    commands = [path.relative_to(ROOT) for path in sources("fathom/cli") if path.stem != "__init__"]
    modules += [".".join(path.with_suffix("").parts) for path in commands]
    loaded = loaded_after("\n".join(f"import {module}" for module in modules))
    assert loaded & {"torch", "triton", "transformers"} == set()


def test_doing_half_loads_without_the_web_stack() -> None:
    """A machine with GPUs has torch, often no FastAPI; the model, the engine and the trainer must still import."""
    doing = [room for room in ("model", "ops", "engine", "train", "checkpoint") if room in rooms()]
    web = ("fastapi", "starlette", "uvicorn", "pydantic")
    block = f"import sys; sys.modules.update(dict.fromkeys({web!r}))"
    assert "torch" in loaded_after("\n".join([block, *(f"import fathom.{room}" for room in doing)]))


# --- everything that is offered is described -------------------------------------------------------------------------


def op_names() -> list[str]:
    return list(importlib.import_module("fathom.ops.dispatch").OPS) if "ops" in rooms() else []


def test_every_op_has_a_reference_a_conformance_case_and_a_page() -> None:
    if not op_names():
        pytest.skip("no ops yet")
    ops, reference = (importlib.import_module(f"fathom.ops{tail}") for tail in ("", ".reference"))
    cases = "\n".join(path.read_text(encoding="utf-8") for path in sources("tests/ops"))
    for op in op_names():
        assert callable(getattr(ops, op, None)) and getattr(ops, op).__doc__, f"fathom.ops.{op} is not documented"
        assert callable(getattr(reference, op, None)), f"ops/reference.py does not define {op}"
        assert re.search(rf"\b{op}\b", cases), f"no test in tests/ops names {op}"
        assert (ROOT / f"docs/ops/{op}.md").is_file(), f"docs/ops/{op}.md is missing"


RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_recipe_parses(recipe: Path) -> None:
    config = importlib.import_module("fathom.config")
    table = config.read_toml(recipe)
    assert table, f"{name_of(recipe)} is empty"


def commands() -> list[str]:
    names = list(importlib.import_module("fathom.cli").COMMANDS) if "cli" in rooms() else []
    return [name for name in names if name != "version"]  # which takes no options


@pytest.mark.parametrize("command", commands())
def test_command_explains_itself(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "fathom", command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: fathom {command}")


def test_help_equals_the_docs() -> None:
    loader = SourceFileLoader("write_docs", str(ROOT / "scripts/docs"))
    spec = importlib.util.spec_from_loader("write_docs", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == module.page(), "run scripts/docs"


def test_every_dependency_is_used_and_has_its_page() -> None:
    names = [re.split(r"[\s<>=!~;\[]", line)[0] for line in project()["project"]["dependencies"]]
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs/decisions").glob("*.md"))
    for name in names:
        assert f"`{name}`" in pages, f"no page of docs/decisions/ says what {name} is for"
    nodes = (node for path in sources("fathom") for node in ast.walk(tree_of(path)))
    used = {name.split(".")[0] for node in nodes for name in imported(node)}
    known = {name.replace("-", "_") for name in names} | {"fathom", "gguf", "jinja2", "triton", "jaxtyping", "PIL"}
    assert used - known - set(sys.stdlib_module_names) == set(), "imported, but not in pyproject.toml"


# --- words -----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+\s+(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_no_dead_links_in_the_pages() -> None:
    dead = []
    for page in (path for path in git_files() if path.suffix == ".md" and "golden" not in path.parts):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in anchors(linked)):
                dead.append(f"{name_of(page)}: {target}")
    assert dead == []


# Letters in brackets, so that this line does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:hom[e]|roo[t]|User[s]|wor[k]|far[m])/\w|\.librar[y]/")


def test_no_paths_of_one_machine_in_the_tree() -> None:
    found = []
    for path in git_files():
        content = path.read_bytes()
        if b"\0" in content[:8192] or "vendor" in path.parts:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{name_of(path)}:{number}")
    assert found == []
