"""Monorepos: which apps a project holds, which one is meant, and where it is installed."""

import pytest

from services.orchestrator.rules.detection import PORT
from services.orchestrator.rules.detection.workspaces import is_member
from tests.orchestrator.detection.trees import Files, choices_in, found_in, package, refusal

NEXT = package("next dev", "next react", name="web")
API = package("tsx watch src/index.ts", "express", "tsx", name="api")
LIBRARY = package({"dev": "tsup --watch", "build": "tsup"}, "", "tsup react", name="@acme/ui")
VITE_LIBRARY = package({"dev": "vite build --watch"}, "", "vite", name="@acme/charts")
STORYBOOK = package({"dev": "storybook dev -p 6006"}, "react", "storybook", name="@acme/ui")
TURBO = {"turbo.json": "{}"}


def npm(*globs: str, scripts: dict[str, str] | None = None, **keys: object) -> str:
    return package(scripts or {"dev": "turbo run dev"}, "", "turbo", workspaces=list(globs), **keys)


ONE_APP: list[tuple[str, Files, str, str, str]] = [
    # name, files, framework, app root, install root
    ("npm workspaces", {"package.json": npm("apps/*", "packages/*"), "apps/web/package.json": NEXT, "packages/ui/package.json": LIBRARY, **TURBO}, "nextjs", "apps/web", "."),
    ("yarn workspaces as an object", {"package.json": package(workspaces={"packages": ["apps/*"]}), "apps/web/package.json": NEXT}, "nextjs", "apps/web", "."),
    ("pnpm", {"package.json": package(), "pnpm-workspace.yaml": "packages:\n  - 'apps/*'\n  - packages/*\n", "apps/web/package.json": NEXT, "packages/ui/package.json": LIBRARY}, "nextjs", "apps/web", "."),
    ("pnpm with comments", {"package.json": "{}", "pnpm-workspace.yaml": "# all of them\npackages: ['apps/**']  # here\ncatalog:\n  react: ^19\n", "apps/site/web/package.json": NEXT}, "nextjs", "apps/site/web", "."),
    ("a library that vite builds", {"package.json": npm("packages/*"), "packages/web/package.json": NEXT, "packages/charts/package.json": VITE_LIBRARY}, "nextjs", "packages/web", "."),
    ("a storybook beside the app", {"package.json": npm("apps/*", "packages/*"), "apps/web/package.json": NEXT, "packages/ui/package.json": STORYBOOK}, "nextjs", "apps/web", "."),
    ("a storybook alone", {"package.json": npm("packages/*"), "packages/ui/package.json": STORYBOOK}, "storybook", "packages/ui", "."),
    ("next in the root's own dependencies", {"package.json": package("turbo dev", "next react", workspaces=["apps/*"]), "apps/web/package.json": package("next dev", "", name="web"), "apps/web/next.config.js": ""}, "nextjs", "apps/web", "."),
    ("the root is the app", {"package.json": package("next dev", "next", workspaces=["packages/*"]), "packages/ui/package.json": LIBRARY}, "nextjs", ".", "."),
    ("taken out by !", {"package.json": npm("apps/*", "!apps/docs"), "apps/web/package.json": NEXT, "apps/docs/package.json": NEXT}, "nextjs", "apps/web", "."),
    ("braces", {"package.json": npm("{apps,tools}/*"), "apps/web/package.json": NEXT, "other/web/package.json": NEXT}, "nextjs", "apps/web", "."),
    ("outside the workspace", {"package.json": npm("apps/*"), "apps/web/package.json": NEXT, "examples/one/package.json": NEXT}, "nextjs", "apps/web", "."),
    ("plain programs only", {"package.json": npm("packages/*"), "packages/server/package.json": package("node server.js", "pg", name="s"), "packages/lib/package.json": LIBRARY}, "node", "packages/server", "."),
    ("no package.json at the top", {"frontend/package.json": NEXT, "README.md": ""}, "nextjs", "frontend", "frontend"),
    ("a top without an app", {"package.json": package({"lint": "eslint ."}, "", "eslint husky"), "web/package.json": NEXT}, "nextjs", "web", "web"),
    ("a workspace below the top", {"app/package.json": npm("packages/*"), "app/packages/web/package.json": NEXT, "docs/README.md": ""}, "nextjs", "app/packages/web", "app"),
    ("an app that the workspace does not name", {"package.json": package({"lint": "x"}, workspaces=["packages/*"]), "packages/web/package.json": NEXT, "tools/x/package.json": API}, "nextjs", "packages/web", "."),
    ("lerna without workspaces", {"package.json": package("lerna run dev", "", "lerna"), "lerna.json": '{"packages": ["packages/*"]}', "packages/web/package.json": NEXT}, "nextjs", "packages/web", "packages/web"),
    ("examples only", {"examples/one/package.json": NEXT}, "nextjs", "examples/one", "examples/one"),
    ("an app with examples", {"package.json": NEXT, "examples/one/package.json": API, "examples/two/package.json": NEXT}, "nextjs", ".", "."),
    ("an app with another folder of packages", {"package.json": NEXT, "functions/package.json": API}, "nextjs", ".", "."),
    ("nested workspaces", {"package.json": npm("apps/*"), "apps/web/package.json": package("next dev", "next", name="web", workspaces=["parts/*"]), "apps/web/parts/a/package.json": LIBRARY}, "nextjs", "apps/web", "."),
    ("python below", {"backend/requirements.txt": "fastapi\n", "backend/main.py": "from fastapi import FastAPI\napp = FastAPI()\n", "README.md": ""}, "fastapi", "backend", "backend"),
    ("broken package beside the app", {"package.json": npm("apps/*"), "apps/web/package.json": NEXT, "apps/old/package.json": "{"}, "nextjs", "apps/web", "."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "framework", "app", "install"), [each[1:] for each in ONE_APP], ids=[each[0] for each in ONE_APP]
)
def test_the_only_app_is_chosen(files: Files, framework: str, app: str, install: str) -> None:
    """Libraries, tools, examples and the root that only orchestrates are no apps; a workspace is installed at its root."""
    found = found_in(files)
    assert (found.framework, found.app_root, found.install_root) == (framework, app, install)


SEVERAL: list[tuple[str, Files, list[tuple[str, str]]]] = [
    ("turborepo's starter", {"package.json": npm("apps/*", "packages/*"), "apps/web/package.json": NEXT, "apps/docs/package.json": NEXT, "packages/ui/package.json": LIBRARY, **TURBO}, [("apps/docs", "nextjs"), ("apps/web", "nextjs")]),
    ("web and api", {"package.json": npm("apps/*"), "apps/web/package.json": NEXT, "apps/api/package.json": API}, [("apps/api", "express"), ("apps/web", "nextjs")]),
    ("two folders and no top", {"server/package.json": API, "client/package.json": package("vite", "react", "vite")}, [("client", "vite"), ("server", "express")]),
    ("python and javascript", {"backend/main.py": "from fastapi import FastAPI\napp = FastAPI()\n", "backend/requirements.txt": "fastapi", "frontend/package.json": NEXT}, [("backend", "fastapi"), ("frontend", "nextjs")]),
    ("python at the top and javascript below", {"manage.py": "", "requirements.txt": "Django==5.1", "frontend/package.json": NEXT}, [(".", "django"), ("frontend", "nextjs")]),
    ("a server that names its front end", {"package.json": package('concurrently "node server.js" "npm run dev --prefix client"', "express"), "client/package.json": package("vite", "", "vite")}, [(".", "express"), ("client", "vite")]),
    ("two storybooks", {"package.json": npm("packages/*"), "packages/a/package.json": STORYBOOK, "packages/b/package.json": STORYBOOK}, [("packages/a", "storybook"), ("packages/b", "storybook")]),
    ("the root and an app", {"package.json": package("next dev", "next", workspaces=["apps/*"]), "apps/admin/package.json": package("vite", "", "vite")}, [(".", "nextjs"), ("apps/admin", "vite")]),
]  # fmt: skip


@pytest.mark.parametrize(("files", "choices"), [each[1:] for each in SEVERAL], ids=[each[0] for each in SEVERAL])
def test_several_apps_are_a_question(files: Files, choices: list[tuple[str, str]]) -> None:
    """Sorted by path; nothing is guessed."""
    assert choices_in(files) == choices


TWO = {
    "package.json": npm("apps/*", packageManager="pnpm@10.4.0"),
    "apps/web/package.json": NEXT,
    "apps/api/package.json": API,
    "apps/page/index.html": "",
    "pnpm-lock.yaml": "",
    "apps/web/package-lock.json": "{}",
}


@pytest.mark.parametrize("app", ["apps/web", "./apps/web/", "/apps//web", "web"])
def test_an_app_is_named_by_path_or_name(app: str) -> None:
    """In any spelling; the workspace's root decides on the package manager."""
    found = found_in(TWO, app)
    assert (found.app_root, found.install_root, found.package_manager) == ("apps/web", ".", "pnpm")


def test_the_app_in_drape_toml_counts_and_the_one_that_is_asked_for_counts_more() -> None:
    files = {**TWO, "drape.toml": 'app = "apps/api"'}
    assert found_in(files).app_root == "apps/api"
    assert found_in(files, "apps/web").app_root == "apps/web"


def test_a_folder_of_html_can_be_named() -> None:
    found = found_in(TWO, "apps/page")
    assert (found.framework, found.app_root, found.install_command) == ("static", "apps/page", ())


@pytest.mark.parametrize("app", ["apps/gone", "nobody", "../web", "apps", "x" * 10_000, "\ud800", "*"])
def test_an_app_that_there_is_not_is_refused(app: str) -> None:
    """With the apps that there are in the hint."""
    assert refusal(TWO, app) == "app_not_found"


def test_a_named_app_that_is_broken_says_so() -> None:
    assert refusal({**TWO, "apps/web/package.json": "{"}, "apps/web") == "bad_package_json"
    assert refusal({**TWO, "apps/web/package.json": "{}"}, "apps/web") == "no_dev_script"


NX = {
    "nx.json": "{}",
    "package.json": package(
        {"start": "nx serve"}, "@angular/core next react express vite", "nx @angular/cli @nx/angular", name="acme"
    ),
}


@pytest.mark.parametrize(
    ("project", "more", "framework", "command"),
    [
        (
            '{"name": "shop", "projectType": "application", "targets": {"serve": {"executor": "@nx/angular:dev-server"}}}',
            {},
            "angular",
            f"nx run shop:serve --host=127.0.0.1 --port={PORT}",
        ),
        ('{"targets": {"serve": {"executor": "@nx/js:node"}}}', {}, "express", "nx run shop:serve"),
        ('{"targets": {"serve": {"executor": "@nrwl/next:server"}}}', {}, "nextjs", f"nx run shop:serve --host=127.0.0.1 --port={PORT}"),
        ('{"projectType": "application"}', {"apps/shop/vite.config.ts": ""}, "vite", f"vite --host 127.0.0.1 --port {PORT} --strictPort"),
        ('{"projectType": "application" /* inferred */}', {"apps/shop/next.config.js": ""}, "nextjs", f"next dev -H 127.0.0.1 -p {PORT}"),
    ],
)  # fmt: skip
def test_nx(project: str, more: Files, framework: str, command: str) -> None:
    """Apps without a package.json, by what serves them; libraries and end-to-end tests are none."""
    files = {
        **NX,
        "apps/shop/project.json": project,
        "apps/shop-e2e/project.json": '{"projectType": "application"}',
        "libs/ui/project.json": '{"projectType": "library"}',
        "libs/ui/vite.config.ts": "",
        **more,
    }
    found = found_in(files)
    assert (found.framework, " ".join(found.dev_command)) == (framework, command)
    assert (found.app_root, found.install_root) == ("apps/shop", ".")
    assert found_in(files, "apps/shop") == found


def test_nx_with_several_apps_asks() -> None:
    app = '{"projectType": "application"}'
    files = {**NX, **{f"apps/{name}/{file}": app for name in ("a", "b") for file in ("project.json", "vite.config.ts")}}
    assert choices_in(files) == [("apps/a", "vite"), ("apps/b", "vite")]
    assert found_in(files, "b").app_root == "apps/b"


def test_nx_packages_with_scripts_are_found_as_packages() -> None:
    files = {
        "nx.json": "{}",
        "package.json": npm("apps/*", scripts={"dev": "nx run-many -t dev"}),
        "apps/web/package.json": NEXT,
    }
    assert (found_in(files).framework, found_in(files).app_root) == ("nextjs", "apps/web")


@pytest.mark.parametrize(
    ("folder", "globs", "member"),
    [
        ("apps/web", ["apps/*"], True),
        ("apps/web", ["./apps/*/"], True),
        ("apps/web/parts", ["apps/*"], False),
        ("apps/web/parts", ["apps/**"], True),
        ("apps", ["apps/**"], True),
        ("web", ["**"], True),
        ("a/b/c/d", ["a/**/d"], True),
        ("a/d", ["a/**/d"], True),
        ("a/b/c", ["a/**/d"], False),
        ("apps/web", ["apps/w?b"], True),
        ("apps/web", ["*"], False),
        ("apps/web", ["apps/*", "!apps/web"], False),
        ("apps/web", ["!apps/web", "apps/*"], True),
        ("apps/web", [], False),
        ("apps/web", ["", "/", "!"], False),
    ],
)
def test_workspace_globs(folder: str, globs: list[str], member: bool) -> None:
    """As npm, yarn and pnpm read them."""
    assert is_member(folder, globs) is member
