"use strict";
// The page of a server: asks /knn-service, shows what it answers as text, puts ticked rows into the list of blocked ones.
(() => {
  const at = (id) => document.getElementById(id);
  const SHRINK_BYTES = 4 << 20, SHRINK_PX = 1024, MORE = 4, MOST_NAME = 100, TOKEN = "sixfold token";
  let pool = null;      // what /about said
  let picture = null;   // a Blob that is searched for
  let like = null;      // the row whose picture is searched for
  let asked = null;     // AbortController of the search that runs
  let shown = "";       // the state whose results stand here

  // Hidden characters can reorder or hide what a person reads; joiners shape words of many scripts.
  const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu, (one) =>
    "\u200c\u200d\u00ad".includes(one) ? one : `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  const numeral = (value) => value.toLocaleString("en");
  const make = (name, kind, text) => {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const wrong = (text) => {
    at("wrong").textContent = text ? visible(text) : "";
    at("wrong").hidden = !text;
  };

  const ask = async (path, options = {}) => {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("the server does not answer; is it still running?");
    }
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(told.error || `the server answered ${answer.status}`), { status: answer.status });
  };
  const post = async (path, body, options = {}) =>
    (await ask(path, { ...options, method: "POST", body: JSON.stringify(body) })).json();

  // state: what survives a reload, in the fragment of the address
  const state = () => {
    const said = new URLSearchParams();
    if (like !== null) said.set("like", like);
    else if (at("text").value && !picture) said.set("text", at("text").value);
    said.set("among", at("among").value);
    said.set("results", at("number").value);
    if (!at("alone").checked) said.set("duplicates", "1");
    if (at("class").value) said.set("class", at("class").value);
    return said.toString();
  };
  const restore = () => {
    const said = new URLSearchParams(location.hash.slice(1));
    const row = said.get("like");
    like = row !== null && /^\d{1,15}$/.test(row) ? Number(row) : null;
    at("text").value = like === null ? (said.get("text") || "").slice(0, pool.most_text) : "";
    if (pool.modalities.includes(said.get("among"))) at("among").value = said.get("among");
    const number = Number(said.get("results"));
    if (Number.isInteger(number) && number >= 1 && number <= Number(at("number").max)) at("number").value = number;
    at("alone").checked = !said.has("duplicates");
    at("class").value = (said.get("class") || "").slice(0, MOST_NAME);
    choose(null);
  };
  const keep = (isNew) => {
    const now = `#${state()}`;
    if (now === location.hash) return;
    if (isNew) history.pushState(null, "", now);
    else history.replaceState(null, "", now);
  };

  // the picture that is searched for
  const choose = (blob) => {
    picture = blob;
    if (at("preview").src) URL.revokeObjectURL(at("preview").src);
    at("preview").removeAttribute("src");
    if (blob) at("preview").src = URL.createObjectURL(blob);
    at("chosen").hidden = !blob;
    if (!blob) at("file").value = "";
  };
  const take = async (blob) => {
    like = null;
    at("text").value = "";
    try {
      choose(await smaller(blob));
    } catch {
      choose(null);
      wrong("found no picture that this browser can read; expected a JPEG, PNG or WebP");
      return;
    }
    await search(true);
  };
  const smaller = async (blob) => {
    if (blob.size <= SHRINK_BYTES) return blob;
    const bitmap = await createImageBitmap(blob);
    const scale = Math.min(1, SHRINK_PX / Math.max(bitmap.width, bitmap.height));
    const canvas = make("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
  };
  const base64 = (blob) => new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => fail(new Error("the picture cannot be read"));
    reader.readAsDataURL(blob);
  });

  // search
  const search = async (isNew) => {
    keep(isNew);
    tell();
    asked?.abort();
    const mine = asked = new AbortController();
    wrong("");
    const text = at("text").value.trim();
    if (!text && !picture && like === null) {
      at("told").textContent = "Type a text, or drop a picture anywhere on the page.";
      show([]);
      return;
    }
    const num = Math.max(1, Math.min(Number(at("number").max), Math.round(Number(at("number").value)) || 40));
    const body = {
      indice_name: pool.name, modality: at("among").value, num_images: num, deduplicate: at("alone").checked,
      num_result_ids: Math.min(pool.most_rows, at("alone").checked ? num * MORE : num),
    };
    at("told").textContent = "Searching …";
    at("found").setAttribute("aria-busy", "true");
    const begun = performance.now();
    try {
      if (like !== null && !picture) picture = await (await ask(`image?row=${like}`, { signal: mine.signal })).blob();
      if (picture) {
        if (like !== null && at("chosen").hidden) choose(picture);
        body.image = await base64(picture);
      } else body.text = text;
      const hits = await post("knn-service", body, { signal: mine.signal });
      const rows = hits.filter((one) => one.caption !== undefined).slice(0, num);
      const what = text && !picture ? `“${visible(text)}”` : like !== null ? `the picture of row ${like}` : "the picture";
      at("told").textContent = `${numeral(rows.length)} of ${numeral(pool.rows)} rows, the nearest to ${what} ` +
        `among ${at("among").selectedOptions[0].text}, by ${visible(pool.routes[at("among").value])}, in ${numeral(Math.round(performance.now() - begun))} ms`;
      show(rows);
    } catch (error) {
      if (error.name === "AbortError") return;
      at("told").textContent = "";
      show([]);
      wrong(error.message);
    } finally {
      if (asked === mine) at("found").removeAttribute("aria-busy");
    }
  };
  const show = (rows) => {
    for (const img of at("found").querySelectorAll("img")) if (img.src.startsWith("blob:")) URL.revokeObjectURL(img.src);
    at("found").replaceChildren(...rows.map(card));
    shown = state();
    ticks();
  };
  const card = (hit) => {
    const item = make("li", "card");
    item.dataset.row = hit.id;
    const caption = visible(hit.caption).slice(0, 2000);
    if (pool.has_pictures) item.append(thumbnail(hit, caption));
    const facts = make("p", "facts");
    facts.append(make("span", "chip", hit.similarity.toFixed(3)), make("span", "id", `row ${hit.id}`));
    if (hit.licence) facts.append(make("span", "chip", visible(String(hit.licence)).slice(0, 80)));
    const words = make("p", "prompt", caption);
    words.dir = "auto";
    words.title = caption;
    item.append(facts, words);
    if (hit.url) item.append(address(String(hit.url)));
    const below = make("p", "below");
    if (pool.block_list) {
      const label = make("label", "tick");
      const box = make("input");
      box.type = "checkbox";
      label.append(box, make("span", "", "bad"), make("span", "unseen", `: row ${hit.id}`));
      below.append(label);
    }
    if (pool.has_pictures) {
      const more = make("button", "more", "similar");
      more.type = "button";
      more.setAttribute("aria-label", `similar to row ${hit.id}`);
      below.append(more);
    }
    item.append(below);
    return item;
  };
  const thumbnail = (hit, caption) => {
    const img = make("img");
    img.alt = caption || `row ${hit.id}`;
    img.width = img.height = 256;
    img.loading = "lazy";
    img.addEventListener("load", () => img.classList.toggle("small", img.naturalWidth < 100));
    img.addEventListener("error", () => img.replaceWith(make("span", "broken", "the picture cannot be read")));
    if (sessionStorage.getItem(TOKEN)) {  // a picture's request cannot carry a token
      ask(`image?row=${hit.id}`).then((answer) => answer.blob()).then((blob) => { img.src = URL.createObjectURL(blob); },
        () => img.dispatchEvent(new Event("error")));
    } else img.src = `image?row=${hit.id}`;
    return img;
  };
  const address = (url) => {
    const line = make("p", "where quiet");
    if (/^https?:\/\//i.test(url)) {
      const link = make("a", "", visible(url));
      link.href = url;
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
      line.append(link);
    } else line.textContent = visible(url);
    return line;
  };

  // ticks
  const ticked = () => [...at("found").querySelectorAll(".tick input:checked")].map((box) => box.closest("li"));
  const ticks = () => {
    const num = ticked().length;
    at("bar").hidden = !num;
    at("count").textContent = num ? `${numeral(num)} ticked` : "";
  };
  const block = async () => {
    const items = ticked();
    at("block").disabled = true;
    try {
      const done = await post("block", { ids: items.map((one) => Number(one.dataset.row)) },
        { headers: { "x-sixfold": "block" } });
      items.forEach((one) => one.remove());
      wrong("");
      at("told").textContent = `${numeral(items.length)} blocked; ${visible(done.list)} has ${numeral(done.new_lines)} more ` +
        `${done.new_lines === 1 ? "line" : "lines"}`;
      at("text").focus();
    } catch (error) {
      wrong(error.message);
    } finally {
      at("block").disabled = false;
      ticks();
    }
  };

  // a recipe
  const quote = (text) => `"${[...text].map((one) => {
    if (one === "\\" || one === '"') return `\\${one}`;
    if (visible(one) === one && !"\u200c\u200d\u00ad\u0085\ufeff".includes(one)) return one;
    const code = one.codePointAt(0).toString(16);
    return one.codePointAt(0) > 0xffff ? `\\U${code.padStart(8, "0")}` : `\\u${code.padStart(4, "0")}`;
  }).join("")}"`;
  const tell = () => {
    const text = at("text").value.trim();
    at("recipe").hidden = !text;
    if (!text) return;
    const name = at("class").value.trim().slice(0, MOST_NAME);
    const template = name && text.includes(name) ? text.split(name).join("{name}") : `${text.replaceAll("{name}", "{ name }")} {name}`;
    at("yaml").textContent = [
      "search:",
      "  # or captions, which searches what the captions say, by the queries below",
      `  routes: [${at("among").value}]`,
      "  # {name} stands for the class",
      "  templates:",
      `    - ${quote(template)}`,
      "  captions:",
      "    queries:",
      `      ${quote(name || "NAME OF THE CLASS")}:`,
      `        - ${quote([...text].slice(0, 500).join(""))}`,
      "",
    ].join("\n");
  };
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(at("yaml").textContent);
      at("copied").textContent = "copied";
    } catch {  // browsers give no clipboard to a page without https
      getSelection().selectAllChildren(at("yaml"));
      at("copied").textContent = "marked; copy it with Ctrl+C";
    }
  };

  // what people do
  const listen = () => {
    at("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      if (at("text").value.trim()) { like = null; choose(null); }
      search(true);
    });
    for (const id of ["among", "number", "alone"]) at(id).addEventListener("change", () => search(true));
    at("text").addEventListener("input", tell);
    at("class").addEventListener("input", () => { tell(); keep(false); });
    at("file").addEventListener("change", () => { if (at("file").files[0]) take(at("file").files[0]); });
    at("forget").addEventListener("click", () => { like = null; choose(null); at("text").focus(); search(true); });
    at("found").addEventListener("change", ticks);
    at("found").addEventListener("click", (event) => {
      const button = event.target.closest("button.more");
      if (!button) return;
      at("text").value = "";
      choose(null);
      like = Number(button.closest("li").dataset.row);
      search(true);
      scrollTo({ top: 0 });
    });
    at("block").addEventListener("click", block);
    at("untick").addEventListener("click", () => { ticked().forEach((one) => { one.querySelector("input").checked = false; }); ticks(); });
    at("copy").addEventListener("click", copy);
    const pictureIn = (data) => [...(data?.files || [])].find((one) => one.type.startsWith("image/"));
    addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
    addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("over");
      const found = pictureIn(event.dataTransfer);
      if (found) take(found);
      else wrong("found no picture in what was dropped; drop an image file");
    });
    addEventListener("paste", (event) => {
      const found = pictureIn(event.clipboardData);
      if (found) { event.preventDefault(); take(found); }
    });
    addEventListener("popstate", () => {
      if (location.hash && !location.hash.includes("=")) keep(false);  // the link that skips to the search
      else if (location.hash.slice(1) !== shown) { restore(); search(false); }
    });
  };

  const open = async () => {
    try {
      pool = await (await ask("about")).json();
    } catch (error) {
      at("door").hidden = error.status !== 401;
      at("token").focus();
      wrong(error.status !== 401 ? error.message : sessionStorage.getItem(TOKEN) ? "this is not the server's token" : "");
      sessionStorage.removeItem(TOKEN);
      return;
    }
    at("door").hidden = true;
    at("ask").hidden = false;
    at("name").textContent = visible(pool.name);
    document.title = `${visible(pool.name)} · search`;
    at("pool").textContent = `${numeral(pool.rows)} rows · ${visible(pool.model)}`;
    at("text").maxLength = pool.most_text;
    at("number").max = Math.min(1000, pool.most_rows);
    for (const option of [...at("among").options]) if (!pool.modalities.includes(option.value)) option.remove();
    at("foot").textContent = (pool.block_list ? `What is ticked as bad goes into ${visible(pool.block_list)}. ` : "") + at("foot").textContent;
    listen();
    restore();
    at("text").focus();
    await search(false);
  };
  at("door").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, at("token").value);
    at("token").value = "";
    open();
  });
  open();
})();
