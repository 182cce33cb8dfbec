// SPDX-License-Identifier: GPL-2.0-or-later
// The page is whole without this; it brings it up to date, and fills in the clock of the device in hand.
"use strict";
(() => {
  const seconds = Number(document.body.dataset.refresh);
  const fill = () => {
    const form = document.getElementById("clock-form");
    if (!form || form.dataset.touched) return;
    const now = new Date();
    const pad = (number) => String(number).padStart(2, "0");
    form.elements.time.value =
      `${now.getFullYear()}-${pad(now.getMonth() + 1)}-${pad(now.getDate())}T${pad(now.getHours())}:${pad(now.getMinutes())}`;
    const offset = String(-now.getTimezoneOffset());
    const zone = form.elements.offset;
    if (![...zone.options].some((option) => option.value === offset)) zone.add(new Option(offset, offset));
    zone.value = offset;
  };
  const form = document.getElementById("clock-form");
  if (form) form.addEventListener("input", (event) => { if (event.target.name !== "token") form.dataset.touched = "1"; });
  fill();
  const refresh = async () => {
    if (document.hidden) return;
    let fresh;
    try {
      const answer = await fetch(location.pathname + location.search.replace(/[?&]said=\w+/, ""), { cache: "no-store" });
      if (!answer.ok) return;
      fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      document.body.classList.add("stale");
      return;
    }
    document.body.classList.remove("stale");
    document.title = fresh.title;
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (part.contains(document.activeElement)) continue;
      if (!next) {
        part.remove();
        continue;
      }
      // What did not change stays as it is: a screen reader says nothing, and nobody loses his place.
      if (next.innerHTML === part.innerHTML) continue;
      const open = [...part.querySelectorAll("details[open]")].map((details) => details.id);
      part.className = next.className;
      part.replaceChildren(...next.childNodes);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    }
    for (const part of fresh.querySelectorAll("[data-live]")) {
      if (!document.getElementById(part.id)) document.getElementById(part.previousElementSibling?.id)?.after(part);
    }
    fill();
  };
  if (seconds) setInterval(refresh, seconds * 1000);
})();
