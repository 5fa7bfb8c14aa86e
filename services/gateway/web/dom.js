// Small words for building elements. Data becomes text nodes and checked attributes, never markup.

export function byId(id) {
  return document.getElementById(id);
}

// make("p", {class: "quiet"}, "text", child): attributes that are null, undefined or false are left out.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Only addresses that a link may lead to: a "javascript:" one in a message stays text.
export function webAddress(text) {
  try {
    const url = new URL(String(text));
    return url.protocol === "http:" || url.protocol === "https:" ? url : null;
  } catch {
    return null;
  }
}

// Keeps `list`'s children in step with `items` by key, so that focus and state of rows survive an update.
export function sync(list, items, keyOf, create, update) {
  const rows = new Map([...list.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, index) => {
    const key = keyOf(item);
    let row = rows.get(key);
    rows.delete(key);
    if (!row) {
      row = create(item);
      row.dataset.key = key;
    }
    update(row, item);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  for (const row of rows.values()) row.remove();
}
