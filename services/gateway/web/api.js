// The gateway's HTTP API: JSON in and out, problems as errors with a code and a hint, and the token where one is asked for.

const TOKEN_KEY = "drape.token";
const TIMEOUT_MS = 30000;

export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || (status ? `The gateway answered ${status}.` : "The gateway does not answer."));
    this.status = status;
    this.code = body?.code ?? "";
    this.hint = body?.hint ?? (status ? "" : "Check that Drape is running (drape status), then try again.");
  }
}

export function token() {
  return sessionStorage.getItem(TOKEN_KEY) ?? "";
}

export function keepToken(value) {
  if (value) sessionStorage.setItem(TOKEN_KEY, value);
  else sessionStorage.removeItem(TOKEN_KEY);
}

let askForToken = async () => {};

// `ask` is called when a request answers 401, and resolves once there is a token to try.
export function onUnauthorized(ask) {
  askForToken = ask;
}

export async function call(method, path, body) {
  for (;;) {
    const response = await send(method, path, body);
    if (response.status === 401) {
      await askForToken(Boolean(token()));
      continue;
    }
    const data = await read(response);
    if (!response.ok) throw new Problem(response.status, data);
    return data;
  }
}

async function send(method, path, body) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  try {
    return await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch {
    throw new Problem(0, null);
  }
}

async function read(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

// Sends `blob` as a project's files. XMLHttpRequest, since fetch tells nothing of an upload's progress.
// Returns {done: a promise of the answer, cancel()}.
export function upload(path, blob, onProgress) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.open("PUT", path);
    request.responseType = "json";
    request.setRequestHeader("Content-Type", "application/x-tar");
    if (token()) request.setRequestHeader("Authorization", `Bearer ${token()}`);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, blob.size));
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) resolve(request.response);
      else reject(new Problem(request.status, request.response));
    });
    request.addEventListener("error", () =>
      reject(
        new Problem(0, {
          detail: "The upload broke off.",
          hint: "A file may have changed or gone while it was read, or the gateway has stopped. Try again.",
        }),
      ),
    );
    request.addEventListener("abort", () => reject(new Problem(0, { detail: "The upload was cancelled.", hint: "" })));
    request.send(blob);
  });
  return { done, cancel: () => request.abort() };
}
