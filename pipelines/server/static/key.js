// The server's API key, shared by both pages. It stays in this tab's session storage and leaves only as a header.

const NAME = "soundloom-key";

// Fetch with the key. Where the server refuses it, ask the reader for another and try again.
export async function fetchWithKey(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(NAME) ?? "";
    const headers = { ...options.headers };
    if (key) headers.authorization = `Bearer ${key}`;
    const answer = await fetch(path, { ...options, headers }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Error("the server does not answer; is it still running?");
    });
    if (answer.status !== 401) return answer;
    if ((sessionStorage.getItem(NAME) ?? "") !== key) continue; // another call has asked meanwhile
    await askOnce(key !== "");
  }
}

let asking = null;

// Several calls may be refused at once; they share one dialog.
function askOnce(wrong) {
  asking ??= ask(wrong).finally(() => { asking = null; });
  return asking;
}

function ask(wrong) {
  const dialog = document.createElement("dialog");
  dialog.id = "key-dialog";
  dialog.setAttribute("aria-labelledby", "key-title");
  dialog.innerHTML = `<form method="dialog">
      <h2 id="key-title">This server wants its key</h2>
      <p id="key-note" role="status"></p>
      <label for="key">API key</label>
      <input id="key" type="password" autocomplete="off" required aria-describedby="key-note">
      <p><button class="primary" type="submit" value="use">Use it</button></p>
    </form>`;
  dialog.querySelector("#key-note").textContent = wrong
    ? "The server refused the last key. Its owner has the right one."
    : "Its owner set one with SOUNDLOOM_API_KEY. It stays in this tab.";
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve, reject) => dialog.addEventListener("close", () => {
    const key = dialog.querySelector("#key").value;
    dialog.remove();
    if (dialog.returnValue !== "use" || !key) {
      reject(new Error("the server wants its API key; reload the page to enter it"));
      return;
    }
    sessionStorage.setItem(NAME, key);
    resolve();
  }, { once: true }));
}
