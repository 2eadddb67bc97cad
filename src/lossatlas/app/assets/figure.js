// A figure of the reports on a page of the application.
const loaded = {};
const load = (url) =>
  (loaded[url] ??= new Promise((done, failed) => {
    const script = Object.assign(document.createElement("script"), { src: url, onload: done, onerror: failed });
    document.head.append(script);
  }));

export default {
  template: `<div class="plot" role="img" :aria-label="label"></div>`,
  emits: ["choose"],
  props: { name: String, label: String, sizes: Object, dark: Object },
  async mounted() {
    await load("/scripts/plotly.js");
    await load("/scripts/figure.js");
    if (!this.$el.isConnected) return; // the page went on meanwhile
    this.ready = true;
    this.watchSize = new ResizeObserver(() => {
      if (this.$el.clientWidth !== this.width) this.draw();
    });
    this.watchSize.observe(this.$el);
    this.watchScheme = new MutationObserver(() => this.draw());
    this.watchScheme.observe(document.body, { attributeFilter: ["class"] });
    this.draw();
  },
  beforeUnmount() {
    this.watchSize?.disconnect();
    this.watchScheme?.disconnect();
  },
  methods: {
    draw() {
      if (!this.ready) return;
      this.width = this.$el.clientWidth;
      const dark = document.body.classList.contains("body--dark") ? this.dark : null;
      drawFigure(this.$el, this.sizes, { name: this.name, dark, printing: false });
      if (!this.hears) this.$el.on?.("plotly_click", this.choose);
      this.hears = Boolean(this.$el.on);
    },
    // The cell of a map that was clicked.
    choose({ points: [point] }) {
      if (!Array.isArray(point.pointIndex ?? point.pointNumber)) return;
      const [row, column] = point.pointIndex ?? point.pointNumber;
      this.$emit("choose", { row, column, panel: point.curveNumber });
    },
  },
  watch: {
    sizes() {
      this.draw();
    },
  },
};
