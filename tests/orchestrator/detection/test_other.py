"""Python, Deno and Bun; `drape.toml`; which files are read."""

import pytest

from services.orchestrator.rules.detection import PORT, STATIC_COMMAND, TEXT_BYTES_MAX, WANTED_FILES_MAX, wanted_files
from services.orchestrator.rules.detection.managers import TOOLCHAIN
from shared.errors import Invalid
from tests.orchestrator.detection.trees import Files, found_in, package, refusal

PYTHON = "{home}/venv/bin/python"
FASTAPI = "from fastapi import FastAPI\n\napp = FastAPI()\n"
FLASK = "from flask import Flask\n\napp = Flask(__name__)\n"
UVICORN = f"--host 127.0.0.1 --port {PORT} --reload"
RUN = f"run --host 127.0.0.1 --port {PORT} --debug"


@pytest.mark.parametrize(
    ("files", "framework", "version", "command"),
    [
        ({"requirements.txt": "fastapi==0.115.0\nuvicorn", "main.py": FASTAPI}, "fastapi", "0.115.0", f"{PYTHON} -m uvicorn main:app {UVICORN}"),
        ({"requirements.txt": "fastapi[standard]>=0.110", "app/main.py": FASTAPI}, "fastapi", "0.110", f"{PYTHON} -m uvicorn app.main:app {UVICORN}"),
        ({"requirements.txt": "fastapi", "main.py": "import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI(title='x')"}, "fastapi", "", f"{PYTHON} -m uvicorn main:api {UVICORN}"),
        ({"pyproject.toml": '[project]\nname = "x"\ndependencies = ["fastapi>=0.110"]', "main.py": FASTAPI}, "fastapi", "0.110", f"{PYTHON} -m uvicorn main:app {UVICORN}"),
        ({"main.py": FASTAPI}, "fastapi", "", f"{PYTHON} -m uvicorn main:app {UVICORN}"),
        ({"requirements.txt": "Flask==3.0.3  # web", "app.py": FLASK}, "flask", "3.0.3", f"{PYTHON} -m flask --app app:app {RUN}"),
        ({"requirements.txt": "flask", "app/__init__.py": "def create_app():\n    app = Flask(__name__)\n"}, "flask", "", f"{PYTHON} -m flask --app app {RUN}"),
        ({"requirements.txt": "flask", "wsgi.py": "from shop import create_app\napp = create_app()\n"}, "flask", "", f"{PYTHON} -m flask --app wsgi {RUN}"),
        ({"Pipfile": '[packages]\nflask = "==3.0.0"', "app.py": FLASK}, "flask", "3.0.0", f"{PYTHON} -m flask --app app:app {RUN}"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.11"\nflask = "^3.0"', "app.py": FLASK}, "flask", "3.0", f"{PYTHON} -m flask --app app:app {RUN}"),
        ({"requirements.txt": "Django>=5.1", "manage.py": "#!/usr/bin/env python", "site/settings.py": ""}, "django", "5.1", f"{PYTHON} manage.py runserver 127.0.0.1:{PORT}"),
        ({"manage.py": ""}, "django", "", f"{PYTHON} manage.py runserver 127.0.0.1:{PORT}"),
        ({"requirements.txt": "streamlit\npandas", "app.py": "import streamlit as st\n"}, "streamlit", "", "{home}/venv/bin/streamlit run app.py --server.address 127.0.0.1 --server.port {port} --server.headless true --server.enableCORS false --server.enableXsrfProtection false --browser.gatherUsageStats false"),
        ({"requirements.txt": "fastapi\nstreamlit", "main.py": FASTAPI}, "fastapi", "", f"{PYTHON} -m uvicorn main:app {UVICORN}"),
        ({"requirements.txt": "fastapi\ndjango", "main.py": FASTAPI}, "fastapi", "", f"{PYTHON} -m uvicorn main:app {UVICORN}"),
        ({"manage.py": "", "requirements.txt": "django", "package.json": package({"build": "tailwindcss"}, "", "tailwindcss")}, "django", "", f"{PYTHON} manage.py runserver 127.0.0.1:{PORT}"),
        ({"manage.py": "", "requirements.txt": "django", "package.json": package("vite", "", "vite")}, "django", "", f"{PYTHON} manage.py runserver 127.0.0.1:{PORT}"),
    ],
)  # fmt: skip
def test_python(files: Files, framework: str, version: str, command: str) -> None:
    """By requirements and by what the entry file says; each server is told host and port in its own way."""
    found = found_in(files)
    assert (found.framework, found.version, " ".join(found.dev_command)) == (framework, version, command)
    assert (found.package_manager, found.install_command[:2]) == ("pip", ("sh", "-c"))


VENV = '"{python}" -m venv "{home}/venv" && "{home}/venv/bin/python" -m pip install'


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"requirements.txt": "flask", "app.py": FLASK}, "-r requirements.txt"),
        ({"requirements.txt": "fastapi", "main.py": FASTAPI}, "-r requirements.txt uvicorn"),
        ({"requirements.txt": "fastapi\nuvicorn[standard]", "main.py": FASTAPI}, "-r requirements.txt"),
        ({"main.py": FASTAPI}, "fastapi uvicorn"),
        ({"manage.py": ""}, "django"),
        (
            {"pyproject.toml": '[project]\ndependencies = ["flask>=3,<4", "a; rm -rf /", "b @ file:///x"]', "app.py": FLASK},
            "'flask>=3,<4' a",
        ),
        (
            {
                "pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.11"\nflask = "^3.0"\nb = "~1.2"\nc = "1.0"\nd = "*"\n'
                'e = {version = "^0.4", extras = ["x"]}',
                "app.py": FLASK,
            },
            "'flask>=3.0,<4' 'b~=1.2' c==1.0 d 'e>=0.4'",
        ),
    ],
)  # fmt: skip
def test_python_installs(files: Files, wanted: str) -> None:
    """A virtual environment in the VM's home, so that the project's folder stays as it is; words are quoted for the shell."""
    assert found_in(files).install_command == ("sh", "-c", f"{VENV} {wanted}")


def test_the_fingerprint_of_a_python_project_is_that_of_its_requirements() -> None:
    files = {"requirements.txt": "-r requirements/base.txt", "requirements/base.txt": "flask", "app.py": FLASK}
    assert found_in({**files, "app.py": FLASK + "\n"}).deps == found_in(files).deps
    assert found_in({**files, "requirements/base.txt": "flask==3"}).deps != found_in(files).deps


def deno(*argv: str) -> tuple[str, ...]:
    return (*TOOLCHAIN, "--tool", "deno@2.9.5", "--", *argv)


def bun(*argv: str) -> tuple[str, ...]:
    return (*TOOLCHAIN, "--tool", "bun@1.3.14", "--", *argv)


@pytest.mark.parametrize(
    ("files", "framework", "command"),
    [
        ({"deno.json": '{"tasks": {"dev": "deno run -A --watch main.ts"}}', "main.ts": ""}, "deno", deno("deno", "task", "dev")),
        ({"deno.jsonc": '{\n  // ours\n  "tasks": {"start": "deno run -A dev.ts",},\n}'}, "deno", deno("deno", "task", "start")),
        ({"deno.json": '{"tasks": {"dev": {"command": "vite"}}}'}, "deno", deno("deno", "task", "dev")),
        ({"deno.json": "{}", "main.ts": ""}, "deno", deno("deno", "run", "--allow-all", "--watch", "main.ts")),
        ({"package.json": package("deno run -A main.ts", "hono")}, "hono", deno("deno", "run", "-A", "main.ts")),
        ({"package.json": package("bun run index.ts", "", "@types/bun")}, "bun", bun("bun", "run", "index.ts")),
        ({"package.json": package("bun --hot src/index.ts", "hono", "@types/bun"), "bun.lock": ""}, "hono", bun("bun", "--hot", "src/index.ts")),
        ({"package.json": package(None, "", "@types/bun", module="index.ts"), "index.ts": "", "bun.lock": ""}, "bun", bun("bun", "--hot", "index.ts")),
    ],
)  # fmt: skip
def test_deno_and_bun(files: Files, framework: str, command: tuple[str, ...]) -> None:
    """By their configuration and by what a script runs; the toolchain brings the runtime."""
    found = found_in(files)
    assert (found.framework, found.dev_command) == (framework, command)


VITE: Files = {"package.json": package("vite", "", "vite"), "package-lock.json": "{}"}


def toml(text: str, files: Files = VITE) -> Files:
    return {**files, "drape.toml": text}


def test_drape_toml_says_how_it_is_started() -> None:
    """A line without anything for the shell is an argv; another goes to the shell; a list is taken as it is."""
    assert found_in(toml('dev = "vite --port {port}"')).dev_command == ("vite", "--port", PORT)
    assert found_in(toml('dev = "make && vite"')).dev_command == ("sh", "-c", "make && vite")
    assert found_in(toml('dev = ["node", "a b.js"]')).dev_command == ("node", "a b.js")
    assert found_in(toml('dev = "x"\nnode = 22')).dev_command == (*TOOLCHAIN, "--node", "22", "--", "x")


def test_drape_toml_says_how_it_is_installed() -> None:
    assert found_in(toml('install = "make deps"')).install_command == ("make", "deps")
    assert found_in(toml('install = ["npm", "ci"]')).install_command == ("npm", "ci")
    assert found_in(toml("install = false")).install_command == ()
    assert found_in(toml('install = "make deps"')).install_retry_command == ()


def test_drape_toml_says_the_rest() -> None:
    text = 'framework = "astro"\nport = 3000\nready_path = "/docs/"\n[env]\nA = "1"\nB = true\nC = 2'
    found = found_in(toml(text))
    assert (found.framework, found.ready_path) == ("astro", "/docs/")
    assert {**found.dev_env, "ASTRO_TELEMETRY_DISABLED": ""} == {"A": "1", "B": "true", "C": "2", "PORT": "3000", "ASTRO_TELEMETRY_DISABLED": ""}  # fmt: skip
    assert found.evidence[-1] == "drape.toml"


def test_a_fixed_port_is_put_where_ours_would_be() -> None:
    assert found_in(toml("port = 3000")).dev_command == (
        "vite",
        "--host",
        "127.0.0.1",
        "--port",
        "3000",
        "--strictPort",
    )


def test_a_framework_that_is_named_counts_against_what_is_found() -> None:
    files = {"package.json": package("vite", "", "vite express")}
    assert found_in(toml('framework = "express"', files)).framework == "express"
    assert found_in(toml('framework = "static"', files)).dev_command == STATIC_COMMAND
    assert found_in(toml('framework = "nextjs"', {"package.json": "{}"})).dev_command[0] == "next"


def test_drape_toml_makes_anything_a_project() -> None:
    """A command is enough, whatever language it is."""
    found = found_in({"drape.toml": 'dev = "cargo run"\ninstall = "cargo fetch"', "Cargo.toml": ""})
    assert (found.framework, found.dev_command, found.install_command) == ("node", ("cargo", "run"), ("cargo", "fetch"))


def test_the_file_of_the_app_counts_more_than_that_of_the_project() -> None:
    files = {
        "package.json": package(workspaces=["apps/*"]),
        "apps/web/package.json": package("vite", "", "vite"),
        "drape.toml": 'ready_path = "/a"\n[env]\nA = "1"\nB = "1"',
        "apps/web/drape.toml": 'ready_path = "/b"\n[env]\nB = "2"',
    }
    found = found_in(files)
    assert (found.ready_path, found.dev_env) == ("/b", {"A": "1", "B": "2"})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('port = "3000"', "port"),
        ("port = 0", "port"),
        ("port = 70000", "port"),
        ("prot = 3000", "prot"),
        ('framework = "nextsj"', "framework"),
        ("framework = 7", "framework"),
        ("app = []", "app"),
        ('package_manager = "cargo"', "package_manager"),
        ("install = true", "install"),
        ('install = ""', "install"),
        ("dev = false", "dev"),
        ("dev = []", "dev"),
        ("dev = [7]", "dev"),
        ('dev = "a\\u0000b"', "dev"),
        ('ready_path = "docs"', "ready_path"),
        ('ready_path = "/a b"', "ready_path"),
        ("node = 1.5", "node"),
        ('[env]\n"A B" = "1"', "A B"),
        ("[env]\nA = []", "env.A"),
        ("env = 7", "env"),
    ],
)
def test_a_mistake_in_drape_toml_is_named(text: str, key: str) -> None:
    """The file and the key, so that it can be mended."""
    with pytest.raises(Invalid) as refused:
        found_in(toml(text))
    assert refused.value.code == "bad_drape_toml"
    assert key in refused.value.message
    assert "drape.toml" in refused.value.message


@pytest.mark.parametrize(
    "text", ["a = ", "[", "x = 9" + "9" * 5_000, "a = 1\na = 2", "[" * 5_000, "d = 1979-99-99", "\0"]
)
def test_a_drape_toml_that_is_no_toml_is_refused(text: str) -> None:
    assert refusal(toml(text)) == "bad_drape_toml"


def test_a_wrong_framework_is_answered_with_a_near_one() -> None:
    with pytest.raises(Invalid) as refused:
        found_in(toml('framework = "nextsj"'))
    assert "nextjs" in refused.value.hint


def test_what_is_read() -> None:
    """What decides, at any depth that counts; nothing of node_modules, no sources, no binaries."""
    wanted = [
        "package.json",
        "drape.toml",
        "apps/web/package.json",
        "apps/web/.nvmrc",
        "pnpm-lock.yaml",
        "requirements/dev.txt",
    ]
    wanted += ["patches/a.patch", ".yarn/patches/b.patch", "app.py", "nx.json", "apps/a/project.json", "deno.jsonc"]
    others = [
        "src/main.ts",
        "node_modules/a/package.json",
        "apps/web/node_modules/b/package.json",
        "bun.lockb",
        "index.html",
        "a/b.md",
    ]
    assert sorted(wanted_files([*wanted, *others])) == sorted(wanted)


def test_what_is_read_is_bounded() -> None:
    """Of very many the nearest to the top are read; a file that is cut off is no crash."""
    many = [f"packages/p{number}/package.json" for number in range(2_000)]
    wanted = wanted_files([*many, "package.json", "pnpm-workspace.yaml"])
    assert (len(wanted), wanted[:2]) == (WANTED_FILES_MAX, ["package.json", "pnpm-workspace.yaml"])
    assert found_in({**VITE, "package-lock.json": '{"packages": {"a": "' + "x" * TEXT_BYTES_MAX}).framework == "vite"


@pytest.mark.parametrize(
    ("scripts", "message"),
    [
        ({"dev": "npm run start", "start": "npm run dev"}, "The script 'dev' in package.json only ever runs 'start', 'dev'."),
        ({"dev": "npm run dev"}, "The script 'dev' in package.json only ever runs 'dev'."),
        ({"dev": "yarn a", "a": "pnpm run b", "b": "yarn a"}, "The script 'dev' in package.json only ever runs 'a', 'b', 'a'."),
    ],
)  # fmt: skip
def test_scripts_that_only_run_each_other_are_refused(scripts: dict[str, str], message: str) -> None:
    """Started, they would fill the VM with processes."""
    with pytest.raises(Invalid) as refused:
        found_in({"package.json": package(scripts)})
    assert (refused.value.code, refused.value.message) == ("script_loop", message)
