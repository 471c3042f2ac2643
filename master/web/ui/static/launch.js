// The form that launches a job: one job for two clicks, and files of any size. Without it, the form sends small files.
"use strict";

(() => {
  const FORM_BYTES = 900000; // of files that the form itself takes
  const form = document.getElementById("launch");
  const files = [...form.querySelectorAll("input[type=file]")];
  let sent = false;

  // A key is printable ASCII: marks are taken off letters, and what is left becomes "_".
  const plainName = (name) => name.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^ -~]/gu, "_").slice(-100);

  const folder = () => form.elements.uploads.value.trim().replace(/^\/+|\/+$/g, "");

  function store(file) {
    const unique = [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const key = [folder(), unique, plainName(file.name)].filter(Boolean).join("/");
    return new Promise((good, bad) => {
      const request = new XMLHttpRequest();
      const query = new URLSearchParams({ key, ttl: `${form.dataset.days}d` });
      request.open("PUT", `${form.dataset.root}keys/put?${query}`);
      request.setRequestHeader("X-CSRF-Token", pulzar.csrf());
      request.upload.addEventListener("progress", (event) => {
        if (event.total) pulzar.say(`${file.name}: ${Math.floor(100 * event.loaded / event.total)} % are stored`, "plain");
      });
      request.addEventListener("load", () => {
        if (request.status === 201) return good(key);
        let message = `the master answered ${request.status}`;
        try { message = JSON.parse(request.responseText).msg; } catch { /* it is no answer of the API */ }
        bad(new Error(message));
      });
      request.addEventListener("error", () => bad(new Error("the master does not answer")));
      request.send(file);
    });
  }

  // Lines to copy are made without the files; what will be their keys stands for them.
  form.addEventListener("htmx:configRequest", (event) => {
    if (event.target !== form) return;
    const sentFields = event.detail.parameters;
    for (const input of files) {
      delete sentFields[input.name];
      const name = `a.${input.name.slice(2)}`;
      if (input.files.length) sentFields[name] = `${folder()}/…/${plainName(input.files[0].name)}`;
    }
  });

  form.addEventListener("submit", async (event) => {
    if (sent) return event.preventDefault();
    sent = true;
    setTimeout(() => { sent = false; }, 15000); // it may have been stopped on its way
    const chosen = files.filter((input) => input.files.length);
    if (chosen.reduce((sum, input) => sum + input.files[0].size, 0) <= FORM_BYTES) return;
    event.preventDefault();
    const button = event.submitter;
    try {
      for (const input of chosen) {
        form.elements[`a.${input.name.slice(2)}`].value = await store(input.files[0]);
        input.value = "";
      }
    } catch (error) {
      pulzar.say(`Nothing was launched: ${error.message}`, "bad");
      return;
    } finally {
      sent = false;
    }
    form.requestSubmit(button);
  });
  window.addEventListener("pageshow", () => { sent = false; }); // it is shown again by the back button
})();
