"use strict";
(() => {
  const find = document.getElementById("find"), by = document.getElementById("by");
  const turn = document.getElementById("turn"), count = document.getElementById("count");
  const list = document.getElementById("stories");
  const stories = [...list.querySelectorAll("article")].map((card) => ({
    card,
    scores: JSON.parse(card.dataset.scores),
    words: [...card.querySelectorAll(".words")].map((part) => part.textContent).join("\n").toLowerCase(),
  }));
  let highestFirst = true;

  function show() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const key = by.value === "" ? null : Number(by.value);
    const sorted = [...stories];
    if (key !== null) {
      // Stories without the figure come last in either direction.
      const place = ({ scores }) => scores[key] === null ? Infinity : highestFirst ? -scores[key] : scores[key];
      sorted.sort((one, other) => place(one) === place(other) ? 0 : place(one) - place(other));
    }
    let shown = 0;
    for (const story of stories) {
      story.card.hidden = !words.every((word) => story.words.includes(word));
      shown += story.card.hidden ? 0 : 1;
    }
    list.append(...sorted.map((story) => story.card));
    turn.textContent = highestFirst ? "highest first" : "lowest first";
    turn.hidden = key === null;
    count.textContent = `${shown} of ${stories.length} stories`;
    for (const button of list.querySelectorAll("[data-by]")) {
      button.classList.toggle("chosen", button.dataset.by === by.value);
    }
  }

  find.addEventListener("input", show);
  by.addEventListener("change", show);
  turn.addEventListener("click", () => { highestFirst = !highestFirst; show(); });
  document.getElementById("tools").addEventListener("submit", (event) => event.preventDefault());

  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.by !== undefined) {
      highestFirst = by.value === button.dataset.by ? !highestFirst : true;
      by.value = button.dataset.by;
      show();
      button.scrollIntoView({ block: "center" });
      return;
    }
    const player = button.closest("section").querySelector("audio");
    if (!player) return;
    player.currentTime = Number(button.dataset.at);
    player.play();
  });

  // Events of players do not bubble, so they are caught on their way down.
  list.addEventListener("play", ({ target }) => {
    for (const player of list.querySelectorAll("audio")) {
      if (player !== target) player.pause();
    }
  }, true);
  list.addEventListener("timeupdate", ({ target }) => {
    const line = target.closest("section").querySelector(".picture i");
    line.style.left = `${100 * target.currentTime / target.duration}%`;
    line.style.opacity = "0.8";
  }, true);

  document.getElementById("tools").hidden = false;
  show();
})();
