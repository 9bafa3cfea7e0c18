/* Definitions of glossary words (book/_ext/terms.py). Style sheets show them on hover and focus; this puts them
   beside the word instead of at the foot of the window, opens them on a tap and closes them on Escape. */
(() => {
  const at = (target) => target instanceof Element && target.closest(".explained");

  const place = (event) => {
    const word = at(event.target);
    if (!word) return;
    word.classList.remove("definition-closed");
    if (window.innerWidth <= 576) return;
    const link = word.querySelector("a").getClientRects()[0];
    const box = word.querySelector(".definition");
    box.classList.add("definition-placed");
    const { width, height } = box.getBoundingClientRect();
    const below = link.bottom + height < window.innerHeight;
    box.style.left = `${Math.max(8, Math.min(link.left, document.documentElement.clientWidth - width - 8))}px`;
    box.style.top = `${below ? link.bottom : link.top - height}px`;
  };
  document.addEventListener("pointerover", place);
  document.addEventListener("focusin", place);

  let opened = null;
  let touch = false;
  document.addEventListener("pointerdown", (event) => { touch = event.pointerType === "touch"; });
  document.addEventListener("click", (event) => {
    const word = at(event.target);
    if (touch && word && word !== opened) event.preventDefault();  // a second tap follows the link
    opened?.classList.remove("definition-open");
    opened = touch ? word : null;
    opened?.classList.add("definition-open");
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelectorAll(".explained:is(:hover, :focus-within, .definition-open)").forEach((word) => {
      word.classList.remove("definition-open");
      word.classList.add("definition-closed");
    });
  });
})();
