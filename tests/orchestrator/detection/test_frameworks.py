"""What each framework's own starter looks like, and what Drape makes of it. Expected answers are from their docs."""

import pytest

from services.orchestrator.rules.detection import PORT
from services.orchestrator.rules.frameworks import FRAMEWORKS, TOOLS, load
from tests.orchestrator.detection.trees import Files, found_in, package

VITE = f"--host 127.0.0.1 --port {PORT} --strictPort"
ON = f"--host 127.0.0.1 --port {PORT}"
NEXT = f"-H 127.0.0.1 -p {PORT}"
STATIC = f"{{python}} -m shared.agent.static_server --port {PORT} --root ."


def js(
    scripts: dict[str, str] | str | None, dependencies: str = "", dev: str = "", *more: str, **keys: object
) -> Files:
    """A package.json, and other files that are empty."""
    return {"package.json": package(scripts, dependencies, dev, **keys), **dict.fromkeys(more, "")}


STARTERS: list[tuple[str, Files, str, str]] = [
    # name, files, framework, dev command
    ("next app router", js({"dev": "next dev", "start": "next start"}, "next react", "", "app/page.tsx", "next.config.ts"), "nextjs", f"next dev {NEXT}"),
    ("next pages", js("next dev", "next react", "", "pages/index.js"), "nextjs", f"next dev {NEXT}"),
    ("next turbopack", js("next dev --turbopack", "next react"), "nextjs", f"next dev --turbopack {NEXT}"),
    ("next without sub-command", js("next", "next react"), "nextjs", f"next {NEXT}"),
    ("next with a port of its own", js("next dev -p 4000", "next react"), "nextjs", f"next dev {NEXT}"),
    ("next with port=", js("next dev --port=4000 --turbo", "next"), "nextjs", f"next dev --turbo {NEXT}"),
    ("next without scripts", js(None, "next react"), "nextjs", f"next dev {NEXT}"),
    ("next with only a production start", js({"start": "next start"}, "next"), "nextjs", f"next dev {NEXT}"),
    ("next with a custom server", js("node server.mjs", "next react"), "nextjs", "node server.mjs"),
    ("vite react", js("vite", "react react-dom", "vite @vitejs/plugin-react", "index.html"), "vite", f"vite {VITE}"),
    ("vite vue", js("vite", "vue", "vite @vitejs/plugin-vue", "index.html"), "vite", f"vite {VITE}"),
    ("vite svelte", js("vite", "", "vite svelte @sveltejs/vite-plugin-svelte", "index.html"), "vite", f"vite {VITE}"),
    ("vite preact", js("vite", "preact", "vite @preact/preset-vite"), "vite", f"vite {VITE}"),
    ("vite solid", js("vite", "solid-js", "vite vite-plugin-solid"), "vite", f"vite {VITE}"),
    ("vite lit", js("vite", "lit", "vite"), "vite", f"vite {VITE}"),
    ("vite qwik", js("vite", "@builder.io/qwik", "vite"), "vite", f"vite {VITE}"),
    ("vite vanilla", js("vite", "", "vite", "index.html"), "vite", f"vite {VITE}"),
    ("vite dev", js("vite dev --open", "", "vite"), "vite", f"vite dev --open {VITE}"),
    ("vite behind start", js({"start": "vite"}, "", "vite"), "vite", f"vite {VITE}"),
    ("vite behind serve", js({"serve": "vite preview", "start": "vite --mode dev"}, "", "vite"), "vite", f"vite --mode dev {VITE}"),
    ("vite with a port of its own", js("vite --port 3000 --host 0.0.0.0 --mode x", "", "vite"), "vite", f"vite --mode x {VITE}"),
    ("vite with --host alone", js("vite --host", "", "vite"), "vite", f"vite {VITE}"),
    ("vite by its path", js("node_modules/.bin/vite", "", "vite"), "vite", f"vite {VITE}"),
    ("rolldown-vite", js("vite", "", "rolldown-vite"), "vite", f"vite {VITE}"),
    ("astro", js("astro dev", "astro", "", "astro.config.mjs"), "astro", f"astro dev {ON}"),
    ("astro by start", js({"start": "astro dev", "build": "astro build"}, "astro"), "astro", f"astro dev {ON}"),
    ("sveltekit", js("vite dev", "", "@sveltejs/kit svelte vite @sveltejs/vite-plugin-svelte"), "sveltekit", f"vite dev {VITE}"),
    ("nuxt", js("nuxt dev", "nuxt vue vue-router"), "nuxt", f"nuxt dev {ON}"),
    ("nuxi", js("nuxi dev", "", "nuxt"), "nuxt", f"nuxi dev {ON}"),
    ("remix on vite", js("remix vite:dev", "@remix-run/react @remix-run/node", "@remix-run/dev vite"), "remix", f"remix vite:dev {VITE}"),
    ("remix classic", js("remix dev", "@remix-run/react", "@remix-run/dev"), "remix", "remix dev"),
    ("react router", js("react-router dev", "react-router @react-router/node", "@react-router/dev vite"), "react-router", f"react-router dev {VITE}"),
    ("hydrogen", js("shopify hydrogen dev --codegen", "@shopify/hydrogen", "@shopify/cli vite @react-router/dev"), "hydrogen", f"shopify hydrogen dev --codegen --port {PORT}"),
    ("tanstack start react", js("vite dev", "@tanstack/react-start @tanstack/react-router", "vite"), "tanstack-start", f"vite dev {VITE}"),
    ("tanstack start with a port", js("vite dev --port 3000", "@tanstack/react-start", "vite"), "tanstack-start", f"vite dev {VITE}"),
    ("tanstack start solid", js("vite dev", "@tanstack/solid-start solid-js", "vite"), "tanstack-start", f"vite dev {VITE}"),
    ("tanstack start on vinxi", js("vinxi dev", "@tanstack/start vinxi"), "tanstack-start", f"vinxi dev {ON}"),
    ("solidstart", js("vinxi dev", "@solidjs/start solid-js vinxi"), "solidstart", f"vinxi dev {ON}"),
    ("solidstart 2", js("vite dev", "@solidjs/start solid-js", "vite"), "solidstart", f"vite dev {VITE}"),
    ("solidstart 0", js("solid-start dev", "solid-js", "solid-start vite"), "solidstart", f"solid-start dev {ON}"),
    ("qwik city", js({"dev": "vite --mode ssr", "start": "vite --open --mode ssr"}, "", "@builder.io/qwik @builder.io/qwik-city vite"), "qwik-city", f"vite --mode ssr {VITE}"),
    ("qwik router", js("vite --mode ssr", "", "@qwik.dev/core @qwik.dev/router vite"), "qwik-city", f"vite --mode ssr {VITE}"),
    ("angular", js({"ng": "ng", "start": "ng serve", "build": "ng build"}, "@angular/core", "@angular/cli @angular/build", "angular.json"), "angular", f"ng serve {ON}"),
    ("angular that opens", js({"start": "ng serve --open --port 4300"}, "@angular/core", "@angular/cli"), "angular", f"ng serve {ON}"),
    ("analog", js({"dev": "ng serve", "start": "npm run dev"}, "@angular/core", "@analogjs/platform @angular/cli vite"), "analog", f"ng serve {ON}"),
    ("create react app", js({"start": "react-scripts start", "build": "react-scripts build"}, "react react-scripts"), "create-react-app", "react-scripts start"),
    ("create react app on craco", js({"start": "craco start"}, "react react-scripts", "@craco/craco"), "create-react-app", "craco start"),
    ("vue cli", js({"serve": "vue-cli-service serve", "build": "vue-cli-service build"}, "vue", "@vue/cli-service"), "vue-cli", f"vue-cli-service serve {ON}"),
    ("gatsby", js({"develop": "gatsby develop", "start": "gatsby develop", "serve": "gatsby serve"}, "gatsby react"), "gatsby", f"gatsby develop {NEXT}"),
    ("eleventy", js({"start": "eleventy --serve --quiet"}, "", "@11ty/eleventy"), "eleventy", f"eleventy --serve --quiet --port={PORT}"),
    ("eleventy without scripts", js(None, "", "@11ty/eleventy", ".eleventy.js"), "eleventy", f"eleventy --serve --port={PORT}"),
    ("eleventy that only builds", js({"start": "eleventy"}, "", "@11ty/eleventy"), "eleventy", f"eleventy --serve --port={PORT}"),
    ("docusaurus", js({"start": "docusaurus start", "serve": "docusaurus serve"}, "@docusaurus/core"), "docusaurus", f"docusaurus start {ON} --no-open"),
    ("vitepress", js({"docs:dev": "vitepress dev docs"}, "", "vitepress", "docs/.vitepress/config.mts"), "vitepress", f"vitepress dev docs {VITE}"),
    ("vitepress at the top", js("vitepress dev", "", "vitepress"), "vitepress", f"vitepress dev {VITE}"),
    ("vuepress", js({"docs:dev": "vuepress dev docs"}, "", "vuepress vue"), "vuepress", f"vuepress dev docs {ON}"),
    ("storybook alone", js({"storybook": "storybook dev -p 6006"}, "react", "storybook @storybook/react-vite"), "storybook", f"storybook dev -h 127.0.0.1 -p {PORT} --ci"),
    ("storybook 6", js({"storybook": "start-storybook -p 6006"}, "react", "@storybook/react"), "storybook", f"start-storybook -h 127.0.0.1 -p {PORT} --ci"),
    ("parcel", js({"start": "parcel", "build": "parcel build"}, "", "parcel", source="src/index.html"), "parcel", f"parcel {ON}"),
    ("parcel with a file", js({"start": "parcel serve src/index.html -p 3000 --open"}, "", "parcel"), "parcel", f"parcel serve src/index.html {ON}"),
    ("webpack serve", js({"start": "webpack serve --mode development --open"}, "", "webpack webpack-cli webpack-dev-server"), "webpack", f"webpack serve --mode development {ON} --allowed-hosts all --client-web-socket-url auto://0.0.0.0:0/ws"),
    ("webpack-dev-server", js("webpack-dev-server --config build/dev.js", "", "webpack webpack-dev-server"), "webpack", f"webpack-dev-server --config build/dev.js {ON}"),
    ("rsbuild", js("rsbuild dev --open", "react", "@rsbuild/core @rsbuild/plugin-react"), "rsbuild", f"rsbuild dev {ON}"),
    ("expo", js({"start": "expo start", "android": "expo start --android", "web": "expo start --web"}, "expo react-native-web react-dom"), "expo", f"expo start --web --port {PORT}"),
    ("ember", js({"start": "ember serve", "build": "ember build"}, "", "ember-cli ember-source"), "ember", f"ember serve {ON}"),
    ("ember on vite", js({"start": "vite"}, "", "@embroider/vite ember-cli ember-source vite"), "ember", f"vite {VITE}"),
    ("hexo", js({"server": "hexo server", "build": "hexo generate"}, "hexo hexo-server"), "hexo", f"hexo server -i 127.0.0.1 -p {PORT}"),
    ("gridsome", js({"develop": "gridsome develop"}, "gridsome"), "gridsome", f"gridsome develop {ON}"),
    ("sapper", js("sapper dev", "", "sapper svelte rollup"), "sapper", f"sapper dev --port {PORT}"),
    ("svelte on rollup", js({"dev": "rollup -c -w", "start": "sirv public"}, "sirv-cli", "svelte rollup"), "svelte", "rollup -c -w"),
    ("stencil", js({"start": "stencil build --dev --watch --serve"}, "", "@stencil/core"), "stencil", f"stencil build --dev --watch --serve --address 127.0.0.1 --port {PORT} --no-open"),
    ("brunch", js({"start": "brunch watch --server"}, "", "brunch"), "brunch", f"brunch watch --server -P {PORT}"),
    ("blitz", js("blitz dev", "blitz next react"), "blitz", f"blitz dev {NEXT}"),
    ("mastra", js("mastra dev", "@mastra/core", "mastra"), "mastra", "mastra dev"),
    ("express", js({"start": "node server.js"}, "express"), "express", "node server.js"),
    ("express generator", js({"start": "node ./bin/www"}, "express cookie-parser"), "express", "node ./bin/www"),
    ("express by nodemon", js("nodemon server.js", "express", "nodemon"), "express", "nodemon server.js"),
    ("express in typescript", js("tsx watch src/index.ts", "express", "tsx typescript"), "express", "tsx watch src/index.ts"),
    ("express without scripts", js(None, "express", "", "app.js"), "express", "node app.js"),
    ("express with a main", js(None, "express", "", "lib/main.js", main="lib/main.js"), "express", "node lib/main.js"),
    ("fastify", js("fastify start -w -l info app.js", "fastify fastify-cli"), "fastify", "npm run dev"),
    ("fastify by node", js({"start": "node --watch server.js"}, "fastify"), "fastify", "node --watch server.js"),
    ("koa", js({"start": "node app.js"}, "koa koa-router"), "koa", "node app.js"),
    ("hono on node", js("tsx watch src/index.ts", "hono @hono/node-server", "tsx"), "hono", "tsx watch src/index.ts"),
    ("nestjs", js({"start": "nest start", "start:dev": "nest start --watch", "start:prod": "node dist/main"}, "@nestjs/core express", "@nestjs/cli"), "nestjs", "nest start --watch"),
    ("plain node", js("node index.mjs"), "node", "node index.mjs"),
    ("plain node without scripts", js(None, "", "", "index.js"), "node", "node index.js"),
    ("static", {"index.html": "", "style.css": ""}, "static", STATIC),
    ("static beside a package.json of tools", js({"format": "prettier -w ."}, "", "prettier", "index.html"), "static", STATIC),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "framework", "command"), [each[1:] for each in STARTERS], ids=[each[0] for each in STARTERS]
)
def test_starters(files: Files, framework: str, command: str) -> None:
    """A framework's starter is recognised, and its server is told where to listen in the way that it takes."""
    found = found_in(files)
    assert (found.framework, " ".join(found.dev_command), found.app_root) == (framework, command, ".")


NEAR_MISSES: list[tuple[str, Files, str, str]] = [
    ("vite among an Angular app's tools", js({"start": "ng serve"}, "@angular/core", "@angular/cli vite vitest"), "angular", f"ng serve {ON}"),
    ("react in a Next app", js("next dev", "react react-dom next"), "nextjs", f"next dev {NEXT}"),
    ("vite among a Next app's tools", js("next dev", "next", "vite vitest"), "nextjs", f"next dev {NEXT}"),
    ("react-scripts left behind in a Vite app", js({"dev": "vite", "start": "react-scripts start"}, "react react-scripts", "vite"), "vite", f"vite {VITE}"),
    ("storybook beside vite", js({"dev": "vite", "storybook": "storybook dev -p 6006"}, "react", "vite storybook"), "vite", f"vite {VITE}"),
    ("storybook beside express", js({"dev": "node server.js", "storybook": "storybook dev"}, "express", "storybook"), "express", "node server.js"),
    ("a library with vite and a storybook", js({"dev": "tsc -w", "build": "vite build", "storybook": "storybook dev"}, "react", "vite storybook"), "storybook", f"storybook dev -h 127.0.0.1 -p {PORT} --ci"),
    ("express inside a Next project", js("node server.js", "next express"), "nextjs", "node server.js"),
    ("express beside next dev", js("next dev", "express next"), "nextjs", f"next dev {NEXT}"),
    ("express with vite as its middleware", js("node server", "express", "vite"), "vite", "node server"),
    ("svelte on vite is not sveltekit", js("vite", "", "svelte vite @sveltejs/vite-plugin-svelte"), "vite", f"vite {VITE}"),
    ("remix with react router's library", js("remix vite:dev", "@remix-run/react react-router-dom", "@remix-run/dev vite"), "remix", f"remix vite:dev {VITE}"),
    ("react-router-dom in a vite app", js("vite", "react react-router-dom", "vite"), "vite", f"vite {VITE}"),
    ("react router's library beside its framework", js("react-router dev", "react-router react-router-dom", "@react-router/dev"), "react-router", f"react-router dev {VITE}"),
    ("vue in a nuxt app", js("nuxt dev", "vue nuxt", "vite"), "nuxt", f"nuxt dev {ON}"),
    ("vue and vite without nuxt", js("vite", "vue vue-router pinia", "vite"), "vite", f"vite {VITE}"),
    ("solid without solidstart", js("vite", "solid-js @solidjs/router", "vite vite-plugin-solid"), "vite", f"vite {VITE}"),
    ("tanstack router without start", js("vite", "@tanstack/react-router react", "vite"), "vite", f"vite {VITE}"),
    ("vitepress docs beside a vite app", js({"dev": "vite", "docs:dev": "vitepress dev docs"}, "vue", "vite vitepress"), "vite", f"vite {VITE}"),
    ("vitepress docs beside a server", js({"dev": "tsx watch src/index.ts", "docs:dev": "vitepress dev docs"}, "fastify", "vitepress tsx"), "fastify", "tsx watch src/index.ts"),
    ("astro with react and vite", js("astro dev", "astro react @astrojs/react", "vite"), "astro", f"astro dev {ON}"),
    ("docusaurus with react", js({"start": "docusaurus start"}, "@docusaurus/core react"), "docusaurus", f"docusaurus start {ON} --no-open"),
    ("gatsby with react-helmet and storybook", js({"develop": "gatsby develop", "storybook": "storybook dev"}, "gatsby", "storybook"), "gatsby", f"gatsby develop {NEXT}"),
    ("expo in an app that has next too", js("next dev", "expo next react-native-web"), "nextjs", f"next dev {NEXT}"),
    ("nest stands on express", js({"start:dev": "nest start --watch"}, "@nestjs/core @nestjs/platform-express express"), "nestjs", "nest start --watch"),
    ("hono in a vite app", js("vite", "hono", "vite @hono/vite-dev-server"), "vite", f"vite {VITE}"),
    ("webpack without its dev server", js("webpack --watch", "", "webpack webpack-cli"), "node", "npm run dev"),
    ("vite that only builds", js({"dev": "vite build --watch", "start": "node server.js"}, "express", "vite"), "vite", "node server.js"),
    ("a dependency whose name only begins so", js("node a.js", "next-auth vite-node express-session"), "node", "node a.js"),
    ("a script whose name is the tool's", js("node tools/vite.js", "", ""), "node", "node tools/vite.js"),
    ("an alias leads to the tool", js({"dev": "npm run start", "start": "ng serve"}, "@angular/core", "@angular/cli"), "angular", f"ng serve {ON}"),
    ("an alias without run", js({"dev": "yarn serve", "serve": "vue-cli-service serve"}, "vue", "@vue/cli-service"), "vue-cli", f"vue-cli-service serve {ON}"),
    ("a hook before the script", js({"predev": "node make.js", "dev": "vite"}, "", "vite"), "vite", f"npm run dev -- {VITE}"),
    ("an environment in front", js("NODE_ENV=test vite", "", "vite"), "vite", f"npm run dev -- {VITE}"),
    ("cross-env in front", js("cross-env NODE_ENV=test next dev", "next", "cross-env"), "nextjs", f"npm run dev -- {NEXT}"),
    ("dotenv in front", js("dotenv -e .env.local -- next dev", "next", "dotenv-cli"), "nextjs", f"npm run dev -- {NEXT}"),
    ("npx in front", js("npx vite", "", "vite"), "vite", f"npm run dev -- {VITE}"),
    ("something before it", js("prisma generate && next dev", "next"), "nextjs", f"npm run dev -- {NEXT}"),
    ("something after it", js("vite && echo done", "", "vite"), "vite", "npm run dev"),
    ("two at once", js('concurrently "vite" "node api.js"', "express", "vite concurrently"), "vite", "npm run dev"),
    ("in the background", js("next dev & node worker.js", "next"), "nextjs", "npm run dev"),
    ("its output goes to a file", js("next dev > log.txt", "next"), "nextjs", "npm run dev"),
    ("its output goes through a pipe", js("next dev | pino-pretty", "next"), "nextjs", "npm run dev"),
    ("a port of its own behind the shell", js("vite --port $PORT", "", "vite"), "vite", "npm run dev"),
    ("a quote that does not end", js("vite 'unfinished", "", "vite"), "vite", "npm run dev"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "framework", "command"), [each[1:] for each in NEAR_MISSES], ids=[each[0] for each in NEAR_MISSES]
)
def test_near_misses(files: Files, framework: str, command: str) -> None:
    """What looks like one thing and is another; and scripts that options do, or do not, reach."""
    found = found_in(files)
    assert (found.framework, " ".join(found.dev_command)) == (framework, command)


@pytest.mark.parametrize(
    ("script", "dependency", "restarts"),
    [
        ("node server.js", "express", True),
        ("ts-node src/index.ts", "koa", True),
        ("nodemon server.js", "express", False),
        ("node --watch server.js", "fastify", False),
        ("tsx watch src/index.ts", "hono", False),
        ("tsx src/index.ts", "hono", True),
        ("nest start", "@nestjs/core", True),
        ("nest start --watch", "@nestjs/core", False),
        ("ts-node-dev src/index.ts", "express", False),
        ("concurrently 'tsc -w' 'nodemon dist/index.js'", "express", False),
        ("node index.js", "", True),
        ("gulp serve", "", False),
        ("vite", "vite", False),
        ("next dev", "next", False),
    ],
)
def test_servers_that_nothing_watches_are_restarted(script: str, dependency: str, restarts: bool) -> None:
    """An edit of a source is seen by a watcher or a dev server, else the program has to be started anew."""
    assert ("**/*.js" in found_in(js(script, dependency)).restart_on) is restarts


def test_the_servers_own_file_of_a_framework_restarts_it() -> None:
    """`node server.mjs` around Next: pages are Next's to watch, the file itself is nobody's."""
    assert found_in(js("node server.mjs", "next")).restart_on == ("server.mjs",)


@pytest.mark.parametrize(
    ("dependency", "name", "value"),
    [
        ("next", "NEXT_TELEMETRY_DISABLED", "1"),
        ("@angular/cli", "NG_CLI_ANALYTICS", "false"),
        ("react-scripts", "WDS_SOCKET_PORT", "0"),
        ("react-scripts", "HOST", "0.0.0.0"),
        ("expo", "EXPO_OFFLINE", "1"),
        ("astro", "ASTRO_TELEMETRY_DISABLED", "1"),
    ],
)
def test_the_environment_that_a_framework_needs(dependency: str, name: str, value: str) -> None:
    """No questions, no telemetry, and the page's socket through the gateway."""
    assert found_in(js(None, dependency)).dev_env[name] == value


# The names of JavaScript frameworks in two public lists, as they write them, in November 2026.
NETLIFY = {
    "analog", "angular", "assemble", "astro", "blitz", "brunch", "create-react-app", "docpad", "docusaurus", "eleventy", "ember",
    "expo", "gatsby", "gridsome", "grunt", "gulp", "harp", "hexo", "hono", "hydrogen", "mastra", "metalsmith", "next", "nuxt",
    "observable", "parcel", "phenomic", "quasar", "qwik", "react-router", "react-static", "redwoodjs", "remix", "roots", "sapper",
    "solid-js", "solid-start", "stencil", "svelte", "svelte-kit", "tanstack-router", "tanstack-start", "vike", "vite", "vitepress",
    "vue", "vuepress", "waku", "wintersmith", "wmr",
}  # fmt: skip
VERCEL = {
    "angular", "ash", "astro", "blitzjs", "brunch", "bun", "create-react-app", "docusaurus", "docusaurus-2", "dojo", "eleventy",
    "elysia", "ember", "eve", "express", "fastify", "gatsby", "gridsome", "h3", "hexo", "hono", "hydrogen", "ionic-angular",
    "ionic-react", "koa", "mastra", "nestjs", "nextjs", "nitro", "node", "nuxtjs", "parcel", "polymer", "preact", "react-router",
    "redwoodjs", "remix", "saber", "sanity", "sanity-v2", "sapper", "scully", "solidstart", "solidstart-1", "stencil", "storybook",
    "svelte", "sveltekit", "sveltekit-1", "tanstack-start", "umijs", "vite", "vitepress", "vue", "vuepress", "xmcp",
}  # fmt: skip
OURS = {
    "next": "nextjs", "nuxtjs": "nuxt", "blitzjs": "blitz", "vue": "vue-cli", "solid-start": "solidstart", "svelte-kit": "sveltekit",
    "docusaurus-2": "docusaurus", "solidstart-1": "solidstart", "sveltekit-1": "sveltekit",
}  # fmt: skip


def test_what_both_public_lists_know_is_in_ours() -> None:
    """Names differ; `OURS` says what we call what they call otherwise."""
    common = {OURS.get(name, name) for name in NETLIFY} & {OURS.get(name, name) for name in VERCEL}
    assert len(common) == 30
    assert common <= set(FRAMEWORKS)


def test_the_frameworks_that_were_asked_for_are_in_the_table() -> None:
    """By the slugs that others rely on."""
    assert {
        "nextjs",
        "vite",
        "astro",
        "sveltekit",
        "nuxt",
        "remix",
        "react-router",
        "tanstack-start",
        "solidstart",
        "qwik-city",
        "angular",
        "create-react-app",
        "vue-cli",
        "gatsby",
        "eleventy",
        "docusaurus",
        "vitepress",
        "vuepress",
        "storybook",
        "parcel",
        "webpack",
        "rsbuild",
        "expo",
        "ember",
        "hexo",
        "express",
        "fastify",
        "koa",
        "hono",
        "nestjs",
        "node",
        "deno",
        "bun",
        "flask",
        "fastapi",
        "django",
        "streamlit",
        "static",
    } <= set(FRAMEWORKS)


@pytest.mark.parametrize("slug", [slug for slug, each in FRAMEWORKS.items() if each.kind == "web"])
def test_each_framework_of_the_table_is_found_by_its_dependency(slug: str) -> None:
    """No entry hides another, and its own command starts a dev server of its first tool."""
    framework = FRAMEWORKS[slug]
    found = found_in(js({"dev": "rollup -c -w"} if slug == "svelte" else None, framework.dependencies[0]))
    assert found.framework == slug
    if framework.command:
        assert found.dev_command[0] == framework.command[0] == TOOLS[framework.tools[0]].binary


@pytest.mark.parametrize(
    "text",
    [
        '[tools]\n[[frameworks]]\nslug = "a"\nname = "A"\ndefault_port = 1\ncolour = "red"',
        '[tools]\n[[frameworks]]\nslug = "a"\nname = "A"\ndefault_port = "1"',
        '[tools]\n[[frameworks]]\nslug = "a"\nname = "A"\ndefault_port = 1\ntools = ["b"]',
        '[tools]\n[[frameworks]]\nslug = "a"\nname = "A"\ndefault_port = 1\n[[frameworks]]\nslug = "a"\nname = "A"\ndefault_port = 1',
        "[tools.a]\nflag = []",
        "frameworks = []",
    ],
)
def test_a_table_with_a_mistake_is_not_loaded(text: str) -> None:
    """Unknown keys, wrong types, tools that are nowhere, a slug twice, a part missing."""
    with pytest.raises(ValueError):  # noqa: PT011
        load(text)
