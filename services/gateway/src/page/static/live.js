// Follows the fleet while the page is visible: a stream of states, single requests if the stream fails,
// and a notice when the gateway is gone.

const RETRY_FIRST_MS = 1000;
const RETRY_MAX_MS = 8000;
/** Silence after which the stream is abandoned; states come every second. */
const SILENCE_MAX_MS = 6000;
const ASK_TIMEOUT_MS = 4000;

/** Calls `onState(state)` with every state and `onLost(since)` while there is none. */
export function follow(onState, onLost) {
  let source = null;
  let timer = 0;
  let watchdog = 0;
  let wait = RETRY_FIRST_MS;
  let lostSince = null;

  const told = (text) => {
    lostSince = null;
    onState(JSON.parse(text));
  };

  function close() {
    clearTimeout(timer);
    clearTimeout(watchdog);
    source?.close();
    source = null;
  }

  function watch() {
    clearTimeout(watchdog);
    watchdog = setTimeout(again, SILENCE_MAX_MS);
  }

  function open() {
    close();
    source = new EventSource("fleet/events");
    watch();
    source.onmessage = (event) => {
      wait = RETRY_FIRST_MS;
      watch();
      told(event.data);
    };
    source.onerror = again;
  }

  /** Handles a stream that ended or was refused: requests one state, then tries the stream again. */
  async function again() {
    close();
    try {
      const answer = await fetch("fleet", { signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      told(await answer.text());
    } catch {
      lostSince ??= Date.now();
      onLost(lostSince);
    }
    if (document.hidden) return;
    timer = setTimeout(open, wait);
    wait = Math.min(wait * 2, RETRY_MAX_MS);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else {
      wait = RETRY_FIRST_MS;
      open();
    }
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => {
    if (event.persisted) open();
  });
  if (!document.hidden) open();
}
