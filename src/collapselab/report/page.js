(() => {
  "use strict";
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const charts = new Map(DATA.charts.map((chart) => [chart.id, chart]));
  const boxes = [...document.querySelectorAll(".chart")];
  const PAPER = 700; // pixels between the margins of A4 and Letter that page.css sets
  const PANEL = 290; // least width of a panel
  const WIDEST = 620;
  const touch = matchMedia("(pointer: coarse)").matches;
  let printing = false;

  // --- theme ---------------------------------------------------------------------------------------------------------

  const button = document.getElementById("theme");
  const remembered = (() => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // a file opened from disk may have no storage
    }
  })();
  const setTheme = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
  };
  const asked = remembered === "dark" || remembered === "light" ? remembered : null;
  setTheme(asked ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  button.hidden = false;
  button.addEventListener("click", () => {
    setTheme(root.dataset.theme === "dark" ? "light" : "dark");
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // it lasts for this visit
    }
    redraw();
  });

  // --- charts --------------------------------------------------------------------------------------------------------

  const look = () => {
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const dark = !printing && root.dataset.theme === "dark";
    return {
      fg: printing ? "#1b1f24" : colour("--fg"),
      bg: printing ? "#ffffff" : colour("--bg"),
      panel: printing ? "#f6f8fa" : colour("--panel"),
      scale: DATA.look.diverging[dark ? "dark" : "light"].map((shade, i) => [i / 4, shade]),
    };
  };

  // Arrange panels in rows, as many side by side as fit. spec.py does the same for one fixed width.
  const arranged = (chart, width) => {
    const layout = structuredClone(chart.layout);
    const { cells } = layout.meta;
    const panel = layout.meta.height * (printing ? 0.7 : 1);
    const least = printing ? 240 : PANEL;
    const [gapX, gapY] = printing ? [60, 78] : DATA.look.gap;
    const narrow = width < 480;
    const { left } = layout.meta;
    const margin = { l: narrow ? left - 12 : left, r: 10, t: DATA.look.head, b: 44 };
    const inner = width - margin.l - margin.r;
    const columns = Math.max(1, Math.min(cells.length, 3, Math.floor((inner + gapX) / (least + gapX))));
    const rows = Math.ceil(cells.length / columns);
    const total = rows * panel + (rows - 1) * gapY;
    const wide = Math.min(printing ? PAPER : WIDEST, (inner - (columns - 1) * gapX) / columns);
    cells.forEach((cell, index) => {
      const left = ((index % columns) * (wide + gapX)) / inner;
      let top = 1 - (Math.floor(index / columns) * (panel + gapY)) / total;
      const whole = panel / total;
      for (const [axis, share] of cell) {
        const low = top - whole * share;
        const gap = cell.length > 1 ? 0.04 * whole : 0;
        layout[`xaxis${axis}`].domain = [left, Math.min(1, left + wide / inner)];
        layout[`yaxis${axis}`].domain = [Math.max(0, low + gap), Math.min(1, top)];
        top = low;
      }
    });
    const colours = look();
    const names = new Set(chart.data.filter((trace) => trace.showlegend).map((trace) => trace.name));
    let legend = 0;
    if (layout.showlegend !== false && names.size > 0) {
      let [line, rows] = [0, 1];
      for (const name of names) {
        const entry = 52 + 6.8 * name.length; // its sign and gaps, and its letters at 12 pixels
        if (line > 0 && line + entry > inner) [line, rows] = [0, rows + 1];
        line += entry;
      }
      legend = rows * 20 + 14;
    }
    margin.b += layout.coloraxis ? 58 : legend;
    layout.margin = { ...margin, autoexpand: false };
    layout.legend = { ...layout.legend, y: -48 / total, font: { color: colours.fg } };
    layout.width = width;
    layout.height = total + margin.t + margin.b;
    layout.font = { ...layout.font, color: colours.fg };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: colours.panel, font: { color: colours.fg } };
    if (layout.coloraxis) {
      layout.coloraxis.colorscale = colours.scale;
      Object.assign(layout.coloraxis.colorbar, { y: -46 / total, len: Math.min(260, inner) });
    }
    if (touch) {
      layout.dragmode = false; // a finger scrolls the page
      for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) layout[key].fixedrange = true;
    }
    return layout;
  };

  const traces = (chart) => {
    const { bg, fg } = look();
    return chart.data.map((trace) => {
      if (trace.type !== "bar" || trace.marker.pattern) return trace;
      const color = trace.meta === "real" ? fg : trace.marker.color;
      return { ...trace, marker: { ...trace.marker, color, line: { width: 0.5, color: bg } } };
    });
  };

  const draw = (box) => {
    const chart = charts.get(box.dataset.chart);
    const width = printing ? PAPER : Math.floor(box.clientWidth);
    if (width < 50) return;
    box.dataset.drawn = String(width);
    const config = { responsive: false, displayModeBar: false, displaylogo: false, showSendToCloud: false, showEditInChartStudio: false, showTips: false };
    Plotly.react(box, traces(chart), arranged(chart, width), config);
  };

  const redraw = () => boxes.filter((box) => box.dataset.drawn).forEach(draw);

  // --- any metric ----------------------------------------------------------------------------------------------------

  for (const select of document.querySelectorAll("select.any")) {
    const { chart, looks, shown } = DATA.any[select.dataset.chart];
    charts.set(select.dataset.chart, chart);
    const box = boxes.find((one) => one.dataset.chart === select.dataset.chart);
    const show = () => {
      const { title, range, said, curves } = shown[select.selectedIndex] ?? { title: "", said: "No metric", curves: {} };
      chart.data = Object.entries(curves).map(([name, [x, y]]) => ({ ...looks[name], x, y }));
      chart.layout.annotations[0].text = title;
      chart.layout.yaxis.range = range;
      box.setAttribute("aria-label", said);
      box.nextElementSibling.textContent = said;
    };
    select.addEventListener("change", () => {
      show();
      draw(box);
    });
    show();
  }

  for (const box of boxes) {
    // Reserve the chart's height, so that nothing moves when it is drawn.
    box.style.minHeight = `${arranged(charts.get(box.dataset.chart), Math.max(320, box.clientWidth)).height}px`;
  }
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        near.unobserve(entry.target);
        draw(entry.target);
        entry.target.style.minHeight = "";
      }
    },
    { rootMargin: "400px" },
  );
  boxes.forEach((box) => near.observe(box));

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => boxes.filter((box) => box.dataset.drawn && Number(box.dataset.drawn) !== Math.floor(box.clientWidth)).forEach(draw), 120);
  });

  // --- print ---------------------------------------------------------------------------------------------------------

  addEventListener("beforeprint", () => {
    printing = true;
    boxes.forEach((box) => {
      box.style.minHeight = "";
      draw(box);
    });
  });
  addEventListener("afterprint", () => {
    printing = false;
    redraw();
  });
})();
