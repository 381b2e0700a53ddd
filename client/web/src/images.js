/** Images from outside: dropped, pasted, chosen, or taken by the camera. */

/**
 * Call `received` with each image.
 *
 * @param {HTMLInputElement[]} inputs
 * @param {(file: Blob) => void} received
 */
export function listen(inputs, received) {
  for (const input of inputs) {
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      // The same file may be chosen again.
      input.value = "";
      if (file) received(file);
    });
  }
  addEventListener("paste", ({ clipboardData }) => take(clipboardData, received));
  let depth = 0;
  /** @param {number} change */
  const hover = (change) => {
    depth = change ? Math.max(0, depth + change) : 0;
    document.body.toggleAttribute("data-drop", depth > 0);
  };
  addEventListener("dragenter", () => hover(1));
  addEventListener("dragleave", () => hover(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    hover(0);
    take(event.dataTransfer, received);
  });
}

/**
 * @param {DataTransfer | null} data
 * @param {(file: Blob) => void} received
 */
function take(data, received) {
  const [file] = data?.files ?? [];
  if (file) received(file);
}
