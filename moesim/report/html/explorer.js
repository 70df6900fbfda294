// The points in the metrics that were chosen, and the front that no other point beats.
const {data} = points;
const [across, up] = [x.value, y.value];
data.x = data[across];
data.y = data[up];
const sign = (metric) => (more.includes(metric) ? -1 : 1);
const [a, b] = [sign(across), sign(up)];
const known = [...data.x.keys()].filter((i) => Number.isFinite(data.x[i]) && Number.isFinite(data.y[i]));
known.sort((i, j) => a * (data.x[i] - data.x[j]) || b * (data.y[i] - data.y[j]));
const front = [];
for (const i of known) if (!front.length || b * data.y[i] < b * data.y[front.at(-1)]) front.push(i);
const on = new Set(front.map((i) => `${data.x[i]} ${data.y[i]}`));
data.front = Array.from(data.x, (value, i) => (on.has(`${value} ${data.y[i]}`) ? "yes" : ""));
data.alpha = data.front.map((each) => (each ? 1.0 : 0.5));
data.size = data.front.map((each) => (each ? 10 : 6));
const corners = {x: [], y: []};
front.forEach((i, place) => {
  const before = front[place - 1];
  if (before !== undefined) { corners.x.push(data.x[i]); corners.y.push(data.y[before]); }
  corners.x.push(data.x[i]); corners.y.push(data.y[i]);
});
line.data = corners;
xaxis.axis_label = labels[across];
yaxis.axis_label = labels[up];
points.change.emit();
