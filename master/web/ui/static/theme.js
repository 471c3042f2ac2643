// Before anything is drawn: the theme that the reader has chosen. Without a choice, the system's counts.
(() => {
  const chosen = localStorage.getItem("pulzar-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
