
"use strict";
// Search, filters and full view of the gallery. Pages can be read without it: then a picture is a link to its file.
(() => {
  const find = document.querySelector(".find");
  const items = [...document.querySelectorAll("[data-item]")];
  if (find) {
    const said = items.map((item) =>
      [...item.querySelectorAll("[data-said]")].map((one) => one.textContent).join(" ").toLowerCase());
    const search = find.querySelector("input");
    const choices = [...find.querySelectorAll("select")];
    const told = find.querySelector("output");
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      items.forEach((item, at) => {
        const fits = words.every((word) => said[at].includes(word)) &&
          choices.every((one) => !one.value || item.dataset[one.name].split(" ").includes(one.value));
        item.hidden = !fits;
        shown += fits;
      });
      told.value = shown < items.length ? `${shown} of ${items.length}` : "";
    };
    find.addEventListener("input", apply);
    addEventListener("pageshow", apply);  // a browser that goes back brings back what was typed
  }
  const view = document.querySelector(".view");
  if (view) {
    const links = [...document.querySelectorAll("a.open")];
    const part = (name) => view.querySelector(`.${name}`);
    let now = links[0];
    const reachable = () => links.filter((link) => !link.closest("[hidden]"));
    const show = (link) => {
      now = link;
      const picture = link.querySelector("img").cloneNode();
      picture.loading = "eager";
      part("stage").replaceChildren(picture);
      const card = link.closest("[data-item]");
      part("words").textContent = card ? card.querySelector(".prompt").textContent : picture.alt;
      part("facts").replaceChildren(...(card ? [card.querySelector("dl").cloneNode(true)] : []));
      const all = reachable();
      const what = link.dataset.what ? `${link.dataset.what} · ` : "";
      part("place").textContent = `${what}${all.indexOf(link) + 1} of ${all.length}`;
    };
    const step = (by) => {
      const all = reachable();
      show(all[(all.indexOf(now) + by + all.length) % all.length]);
    };
    links.forEach((link) => link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;  // another tab or a file
      event.preventDefault();
      show(link);
      view.showModal();
    }));
    view.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      step(by);
    });
    view.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button && button.value) step(Number(button.value));
      else if (button || event.target === view) view.close();
    });
    view.addEventListener("close", () => {
      now.focus();
      now.scrollIntoView({ block: "nearest" });
    });
  }
})();
