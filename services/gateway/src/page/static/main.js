// Assembles the page: the modules show the states of the fleet, the chat runs beside them.

import { startChat } from "./chat.js";
import { byId, setAttr, setText, webAddress } from "./dom.js";
import { showFigures } from "./figures.js";
import { showFleet, startFleet } from "./fleet.js";
import * as format from "./format.js";
import { follow } from "./live.js";

const VERSION = 1;
const chat = startChat();

function onState(state) {
  if (state.version !== VERSION) {
    showBanner("This page is older than its gateway. Reload it.");
    return;
  }
  showBanner("");
  showStanding(state.gateway);
  showLinks(state.links);
  showFigures(state);
  showFleet(state);
  chat.learn(state);
  setText(byId("version"), state.gateway.version);
  setText(byId("uptime"), format.age(state.time_ms - state.gateway.started_ms));
  setText(byId("stamp"), format.clock(state.time_ms));
}

function showStanding({ model, ready, reason }) {
  setText(byId("model"), model);
  document.title = `${model} · Tandem`;
  const pill = byId("standing");
  setText(pill, ready ? "ready" : `not ready: ${reason}`);
  setAttr(pill, "data-tone", ready ? "good" : "wait");
}

function showLinks(links) {
  for (const name of ["jaeger", "grafana"]) {
    const link = byId(`link-${name}`);
    const address = webAddress(links[name]);
    link.hidden = address === null;
    if (address !== null) setAttr(link, "href", address);
  }
}

function onLost(since) {
  showBanner(`The gateway does not answer since ${format.clock(since)}. Trying again; what is shown is from before.`);
  const pill = byId("standing");
  setText(pill, "no connection");
  setAttr(pill, "data-tone", "bad");
}

function showBanner(text) {
  const banner = byId("banner");
  setText(banner, text);
  banner.hidden = text === "";
  document.body.classList.toggle("old", text !== "");
}

startFleet();
follow(onState, onLost);
