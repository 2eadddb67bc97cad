// Draws a figure of ours into an element, for the width that it has; pages and the application share it.
// sizes: the figure as plotly reads it, `wide` and `narrow`; its own width, where it has one, is the most. dark: the colour that takes the place of each, or null.
function drawFigure(element, sizes, { name, dark, printing }) {
  const printed = 680; // pixels across a printed page
  const repaint = (value) => {
    if (typeof value === "string") return value.replace(/#[0-9a-f]{6}/g, (colour) => dark[colour] || colour);
    if (Array.isArray(value)) return value.map(repaint);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, repaint(v)]));
    return value;
  };
  const width = printing ? printed : Math.floor(element.clientWidth);
  if (!width) return;
  const narrow = width < 640;
  // Plotly keeps and changes what it is given, so it gets a copy.
  let figure = JSON.parse(JSON.stringify(sizes[narrow ? "narrow" : "wide"]));
  if (dark) figure = repaint(figure);
  figure.layout.width = Math.min(width, figure.layout.width || width);
  element.style.minHeight = figure.layout.height + "px";
  const config = {
    displaylogo: false,
    displayModeBar: narrow || !matchMedia("(hover: hover)").matches ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
    toImageButtonOptions: { filename: "lossatlas-" + name, scale: 2 },
  };
  Plotly.react(element, { data: figure.data, layout: figure.layout, frames: figure.frames || [], config });
  // The description of the picture is on its element; its thousand pieces are not read one by one.
  for (const svg of element.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true");
}
