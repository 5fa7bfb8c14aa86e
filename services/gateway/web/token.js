// Asks for the API token. Several requests may wait for one answer.

import { keepToken } from "./api.js";
import { byId, put } from "./dom.js";

// What may stand in a WebSocket sub-protocol, which is how the token reaches /ws.
const TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;

let asking = null;

// wrong: true when there was a token, and the gateway did not take it.
export function askForToken(wrong) {
  asking ??= ask(wrong).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(wrong) {
  const dialog = byId("token-dialog");
  const form = byId("token-form");
  const input = byId("token");
  keepToken("");
  input.value = "";
  put(byId("token-error"), wrong ? "The gateway did not take that token." : "");
  dialog.showModal();
  return new Promise((resolve) => {
    // There is nothing to see without a token: Escape does not close this.
    const stay = (event) => event.preventDefault();
    const take = (event) => {
      event.preventDefault();
      const value = input.value.trim();
      if (!TOKEN.test(value)) {
        put(byId("token-error"), "A token has letters, digits and a few signs, and no spaces.");
        return;
      }
      dialog.removeEventListener("cancel", stay);
      form.removeEventListener("submit", take);
      keepToken(value);
      dialog.close();
      resolve();
    };
    dialog.addEventListener("cancel", stay);
    form.addEventListener("submit", take);
  });
}
