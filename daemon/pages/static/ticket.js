// Keeps the figures of a ticket's page up to date while the page is visible. Without this script the page is complete.
//
// The total is asked for every ten seconds, by its ETag: an answer 304 has no body. When it has changed, and once a
// minute, the page itself is read again, and its figures replace those that are shown, so that all of them are of one
// moment. While the server does not answer, it is asked less and less often, and the page says so. The reader can turn
// the updates off (WCAG 2.2, 2.2.2).
"use strict";
(() => {
  const POLL_MS = 10_000, LONGEST_MS = 300_000, PAGE_MS = 60_000;
  const stale = document.getElementById("stale"), updates = document.getElementById("updates");
  const {page: address, total} = document.body.dataset;
  let tag = null, waitMs = POLL_MS, pageReadAt = Date.now(), timer = 0, reading = false;

  async function get(url, headers) {
    const reply = await fetch(url, {headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(15_000)});
    if (reply.ok || reply.status === 304) return reply;
    const seconds = Number(reply.headers.get("Retry-After"));
    throw Object.assign(new Error(`status ${reply.status}`), {waitMs: seconds > 0 ? seconds * 1000 : 0, gone: reply.status === 404});
  }

  async function readPage() {
    const reply = await get(address, {});
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    for (const id of ["figures", "donations"]) {
      const shown = document.getElementById(id), fresh = page.getElementById(id);
      if (shown && fresh && shown.innerHTML !== fresh.innerHTML) shown.innerHTML = fresh.innerHTML;
    }
    pageReadAt = Date.now();
  }

  async function poll() {
    const reply = await get(total, tag ? {"If-None-Match": tag} : {});
    const changed = reply.status === 200 && tag !== null;
    if (changed || Date.now() - pageReadAt >= PAGE_MS) await readPage();
    if (reply.status === 200) tag = reply.headers.get("ETag");
  }

  async function run() {
    if (reading || document.hidden || !updates.checked) return;
    reading = true;
    try {
      await poll();
      waitMs = POLL_MS;
      stale.hidden = true;
    } catch (error) {
      if (error.gone) {
        // A reload asks the server; of a page that a form has sent for, it would send the form again.
        if (location.pathname.endsWith("/give")) location.replace(address);
        else location.reload();
        return;
      }
      waitMs = Math.min(Math.max(waitMs * 2, error.waitMs || 0), LONGEST_MS);
      stale.hidden = false;
    } finally {
      reading = false;
    }
    clearTimeout(timer);
    // Pages that lost the server at the same moment do not all come back at the same moment.
    timer = setTimeout(run, waitMs * (0.8 + 0.4 * Math.random()));
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) run();
  });
  window.addEventListener("online", run);
  updates.addEventListener("change", run);
  document.getElementById("live").hidden = false;
  run();
})();
