(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), dark = read("dark");
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const printed = 680; // pixels across a printed page
  const repaint = (value) => {
    if (typeof value === "string") return value.replace(/#[0-9a-f]{6}/g, (colour) => dark[colour] || colour);
    if (Array.isArray(value)) return value.map(repaint);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, repaint(v)]));
    return value;
  };
  const draw = (element, printing) => {
    const width = printing ? printed : Math.floor(element.clientWidth);
    if (!width) return;
    const name = element.dataset.figure, narrow = width < 640;
    const source = figures[name][narrow ? "narrow" : "wide"];
    // Plotly keeps and changes what it is given, so it gets a copy.
    let figure = JSON.parse(JSON.stringify(source));
    if (scheme.matches && !printing) figure = repaint(figure);
    figure.layout.width = width;
    element.style.minHeight = figure.layout.height + "px";
    Plotly.react(element, figure.data, figure.layout, {
      displaylogo: false,
      displayModeBar: narrow || !matchMedia("(hover: hover)").matches ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
      toImageButtonOptions: { filename: "lossatlas-" + name, scale: 2 },
    });
    // The description of the picture is on its element; its thousand pieces are not read one by one.
    for (const svg of element.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true");
  };
  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = (printing) => plots.forEach((element) => draw(element, printing === true));
  drawAll();
  let frame = 0, last = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth === last) return; // a phone's bars come and go
    last = document.documentElement.clientWidth;
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(drawAll);
  });
  scheme.addEventListener("change", drawAll);
  const closed = [];
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) { closed.push(details); details.open = true; }
    drawAll(true);
  });
  addEventListener("afterprint", () => {
    while (closed.length) closed.pop().open = false;
    drawAll();
  });
})();
