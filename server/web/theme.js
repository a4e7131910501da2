// Light, dark, or what the system says. A plain script in the head, so that no page is drawn in the wrong one first.

(() => {
  const KEY = "bramley.theme";
  const root = document.documentElement;
  const read = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage may be forbidden; the system's choice holds then
    }
  };
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  const chosen = read();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    label();
    button.title = "Light or dark";
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      label();
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {
        // It holds for this page then.
      }
    });
  });
})();
