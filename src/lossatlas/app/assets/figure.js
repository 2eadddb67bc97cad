// A figure of the reports on a page of the application.
const loaded = {};
const load = (url) =>
  (loaded[url] ??= new Promise((done, failed) => {
    const script = Object.assign(document.createElement("script"), { src: url, onload: done, onerror: failed });
    document.head.append(script);
  }));

export default {
  template: `<div class="plot" role="img" :aria-label="label"></div>`,
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
    },
  },
  watch: {
    sizes() {
      this.draw();
    },
  },
};
