// Keeps the page live: when the notary commits something, the page is fetched anew and its main part replaced.
// What arrives is our own server's escaped HTML of the same origin; nothing is built from event data here.
"use strict";
(() => {
  const pulse = document.getElementById("pulse");
  const say = (text, tone) => { pulse.textContent = text; pulse.className = "pulse " + tone; };
  let busy = false, again = false, timer = 0;

  async function refresh() {
    if (document.hidden) { again = true; return; }
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const open = [...document.querySelectorAll("#live details")].map((item) => item.open);
      const main = fresh.getElementById("live");
      main.querySelectorAll("details").forEach((item, i) => { item.open = open[i] || false; });
      if (!document.activeElement || !document.getElementById("live").contains(document.activeElement)) {
        document.getElementById("live").replaceWith(document.adoptNode(main));
      }
      document.querySelector("footer").replaceWith(document.adoptNode(fresh.querySelector("footer")));
      say("live", "on");
    } catch {
      say("this peer does not answer", "off");
    }
    busy = false;
    if (again) { again = false; later(); }
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(refresh, 250);
  }

  const source = new EventSource("/v1/events");
  source.onopen = () => { say("live", "on"); later(); };
  source.onerror = () => say("reconnecting", "off");
  source.onmessage = later;
  source.addEventListener("gap", later);
  // Empty blocks make no events; ages move all the same.
  setInterval(() => { if (source.readyState === EventSource.OPEN) { later(); } }, 3000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { later(); } });
  addEventListener("pagehide", () => source.close());
})();
