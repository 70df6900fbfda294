// Colours of the drawings follow the scheme of the page: they are drawn on canvases, which style sheets do not reach.
(() => {
  const toDark = COLOURS;
  const toLight = Object.fromEntries(Object.entries(toDark).map(([light, dark]) => [dark, light]));
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const isColour = /color$/;

  function repaint() {
    const swap = scheme.matches ? toDark : toLight;
    for (const doc of Bokeh.documents)
      for (const root of doc.roots())
        for (const model of root.references())
          for (const property of model)
            if (isColour.test(property.attr)) {
              const value = model[property.attr];
              const field = value !== null && typeof value === "object" && typeof value.value === "string";
              const colour = swap[field ? value.value : value];
              if (colour) model[property.attr] = field ? {value: colour} : colour;
            }
  }

  // A key takes as many columns as its card has room for.
  function fitKeys() {
    const room = innerWidth <= 760 ? innerWidth - 70 : 520;
    for (const doc of Bokeh.documents)
      for (const root of doc.roots())
        for (const model of root.references())
          if (model.type === "Legend" && model.tags.length) model.ncols = Math.max(1, Math.floor(room / (7 * model.tags[0] + 32)));
  }

  // Where fingers scroll the page, a figure does not take them for its own until one of its tools is chosen.
  function freeFingers() {
    if (!matchMedia("(pointer: coarse)").matches) return;
    for (const doc of Bokeh.documents)
      for (const root of doc.roots())
        for (const model of root.references())
          if (model.type === "Toolbar") for (const tool of model.tools) if (tool.type !== "HoverTool") tool.active = false;
  }

  function begin() {
    if (Bokeh.documents.length < DOCUMENTS) return void setTimeout(begin, 20);
    freeFingers();
    fitKeys();
    repaint();
    addEventListener("resize", fitKeys);
    scheme.addEventListener("change", repaint);
    document.documentElement.dataset.ready = "yes";
  }
  addEventListener("DOMContentLoaded", begin);
})();
