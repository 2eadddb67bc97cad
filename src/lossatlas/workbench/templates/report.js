(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), dark = read("dark");
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const draw = (element, printing) => {
    const name = element.dataset.figure;
    drawFigure(element, figures[name], { name, dark: scheme.matches && !printing ? dark : null, printing });
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
