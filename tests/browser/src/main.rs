//! The live page in Chromium, against a real service and a real PostgreSQL: `make browser`. It asks for a token, and shows a pool
//! that is idle, loaded, exhausted with leaks, and without its server. A directory as second argument gets a picture of each.

use headless_chrome::browser::tab::RequestPausedDecision;
use headless_chrome::protocol::cdp::types::Event;
use headless_chrome::protocol::cdp::{Emulation, Page};
use headless_chrome::{Browser, LaunchOptions, Tab};
use std::error::Error;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Postgres, SOON, eventually};

/// The tests' private server.
#[path = "../../support"]
#[allow(dead_code, unused_imports, reason = "the tests' code; this needs only part of it")]
mod support {
    mod eventually;
    pub(crate) mod postgres;
    pub(crate) mod server;

    pub(crate) use eventually::{SOON, eventually};
    pub(crate) use server::Postgres;
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const TOKEN: &str = "browser-token-0123456789-0123456789-0123456789";

/// The service; ended when dropped.
struct Service {
    child: Child,
    base_url: String,
}

impl Service {
    fn start(program: &Path, url: &str, directory: &Path) -> Outcome<Service> {
        let mut child = Command::new(program)
            .arg("serve")
            .current_dir(directory)
            .env("DATABASE_URL", url)
            .env("HTTP_BIND", "127.0.0.1:0")
            .env("API_TOKENS", format!("browser={TOKEN}"))
            .env("DB_POOL_MIN_CONNECTIONS", "2")
            .env("DB_POOL_MAX_CONNECTIONS", "6")
            .env("DB_POOL_LEAK_THRESHOLD_S", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no log")?).lines();
        let listening = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("Listening on ").map(|(_, url)| url.trim().to_owned()));
        // The log is read to its end: a full pipe would stop the service.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Service { child, base_url: listening.ok_or("the service does not listen")? })
    }

    fn get(&self, path: &str) {
        let _ = ureq::get(format!("{}{path}", self.base_url)).call();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Panels keep their places, and what they list moves within them. Up to this a page counts as stable (web.dev, "Cumulative
/// Layout Shift").
const MOST_SHIFT: f64 = 0.1;

/// Adds up what moves without an input of the user.
const OBSERVE_SHIFTS: &str = "var shifts = 0; new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifts += entry.value;
}).observe({ type: 'layout-shift' })";

/// The page, and what its console and the browser have complained of.
struct Live {
    tab: Arc<Tab>,
    complaints: Arc<Mutex<Vec<String>>>,
    pictures: Option<PathBuf>,
}

impl Live {
    fn open(browser: &Browser, base_url: &str, pictures: Option<PathBuf>) -> Outcome<Live> {
        let tab = browser.new_tab()?;
        let complaints: Arc<Mutex<Vec<String>>> = Arc::default();
        let (heard, requested, origin) = (complaints.clone(), complaints.clone(), base_url.to_owned());
        tab.enable_log()?;
        tab.enable_runtime()?;
        tab.add_event_listener(Arc::new(move |event: &Event| {
            let text = match event {
                Event::LogEntryAdded(entry) => entry.params.entry.text.clone(),
                Event::RuntimeExceptionThrown(thrown) => format!("{:?}", thrown.params.exception_details),
                _ => return,
            };
            // The page reports these itself.
            if !text.contains("401") {
                heard.lock().unwrap().push(text);
            }
        }))?;
        tab.enable_fetch(None, None)?;
        tab.enable_request_interception(Arc::new(
            move |_, _, event: headless_chrome::protocol::cdp::Fetch::events::RequestPausedEvent| {
                let url = &event.params.request.url;
                if !url.starts_with(&origin) && !url.starts_with("data:") {
                    requested.lock().unwrap().push(format!("a request to {url}"));
                }
                RequestPausedDecision::Continue(None)
            },
        ))?;
        tab.navigate_to(&format!("{base_url}/dashboard"))?.wait_until_navigated()?;
        tab.evaluate(OBSERVE_SHIFTS, false)?;
        Ok(Live { tab, complaints, pictures })
    }

    /// The text of an element, as it is shown.
    fn text(&self, selector: &str) -> String {
        let script = format!("document.querySelector({selector:?})?.innerText ?? ''");
        let value = self.tab.evaluate(&script, false).ok().and_then(|object| object.value);
        value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }

    #[track_caller]
    fn shows(&self, selector: &str, text: &str) {
        let start = Instant::now();
        while !self.text(selector).contains(text) {
            assert!(start.elapsed() < SOON, "{selector} shows {:?}, not {text:?}", self.text(selector));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn number(&self, script: &str) -> Outcome<f64> {
        Ok(self.tab.evaluate(script, true)?.value.and_then(|value| value.as_f64()).ok_or("no number")?)
    }

    fn use_token(&self, token: &str) -> Outcome {
        self.tab.wait_for_element("#token")?.click()?.type_into(token)?;
        self.tab.press_key("Enter")?;
        Ok(())
    }

    /// Checks that little has moved since the last look, and looks at the page on a phone and on a wide screen, in dark and light.
    fn is_well_laid_out(&self, name: &str) -> Outcome {
        let shifts = self.number("shifts")?;
        assert!(shifts < MOST_SHIFT, "{name}: the layout has shifted by {shifts}");
        println!("{name}: shown; layout shift {shifts:.4}");
        for (width, height, scheme, suffix) in [(390, 844, "dark", "-phone"), (1280, 1010, "light", "")] {
            self.tab.call_method(Emulation::SetEmulatedMedia {
                media: None,
                features: Some(vec![Emulation::MediaFeature {
                    name: "prefers-color-scheme".to_owned(),
                    value: scheme.to_owned(),
                }]),
            })?;
            self.tab.call_method(Emulation::SetDeviceMetricsOverride {
                width,
                height,
                device_scale_factor: 1.0,
                mobile: false,
                scale: None,
                screen_width: None,
                screen_height: None,
                position_x: None,
                position_y: None,
                dont_set_visible_size: None,
                screen_orientation: None,
                viewport: None,
                display_feature: None,
                device_posture: None,
            })?;
            let beyond = self.number("document.documentElement.scrollWidth - innerWidth")?;
            assert!(beyond <= 0.0, "{name}: the page is {beyond} px wider than a screen of {width}");
            if let Some(directory) = &self.pictures {
                let format = Page::CaptureScreenshotFormatOption::Png;
                let picture = self.tab.capture_screenshot(format, None, None, true)?;
                std::fs::write(directory.join(format!("{name}{suffix}.png")), picture)?;
            }
        }
        // Those of another screen's size are none of the page's making; the browser reports them late.
        self.number("new Promise(done => setTimeout(() => done(shifts = 0), 500))")?;
        Ok(())
    }
}

fn chromium() -> Outcome<Browser> {
    let options = LaunchOptions {
        path: ["/usr/bin/chromium", "/usr/bin/google-chrome"]
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists()),
        // Chromium refuses to be root's with its sandbox.
        sandbox: !nix::unistd::Uid::effective().is_root(),
        args: vec![OsStr::new("--hide-scrollbars"), OsStr::new("--disable-gpu")],
        idle_browser_timeout: Duration::from_secs(600),
        ..LaunchOptions::default()
    };
    Ok(Browser::new(options)?)
}

/// Runs `while_loaded` while eight clients read movies.
fn under_load<R>(service: &Service, while_loaded: impl FnOnce() -> R) -> R {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    service.get(&format!("/api/movies/{client}"));
                }
            });
        }
        // At a panic too, or the scope would wait for the clients.
        let _end = End(&is_over);
        while_loaded()
    })
}

fn main() -> Outcome {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let program = arguments.next().ok_or("the path of the program is missing")?;
    let pictures = arguments.next();
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    let directory = tempfile::tempdir()?;
    let service = Service::start(&std::path::absolute(program)?, &database.url(), directory.path())?;
    let browser = chromium()?;
    let page = Live::open(&browser, &service.base_url, pictures)?;

    page.use_token("a-token-that-is-not-known-0123456789-0123456789")?;
    page.shows("#refused", "does not know this token");
    page.is_well_laid_out("login")?;
    page.use_token(TOKEN)?;
    page.shows("#status", "0 of 6 connections in use");
    page.shows("#basis", "Too little data");
    page.shows("#cells", "idle");
    page.is_well_laid_out("idle")?;

    under_load(&service, || -> Outcome {
        page.shows("#frequent", "select movie_id, title, year, genres from movies where movie_id = $");
        eventually("the charts have lines", SOON, || {
            page.number("document.querySelectorAll('path.line')[2].getAttribute('d').length")
                .is_ok_and(|it| it > 50.0)
        });
        page.is_well_laid_out("loaded")?;

        let mut client = database.client();
        let mut lock = client.transaction()?;
        lock.batch_execute("LOCK TABLE movies IN ACCESS EXCLUSIVE MODE")?;
        page.shows("#status", "6 of 6 connections in use (100%)");
        page.shows("#cells", "held");
        page.shows("#leaks", "src/bin/poolhouse/repositories/movies.rs:");
        page.shows("#advice", "6 connections acquired there have not come back");
        page.is_well_laid_out("exhausted")?;
        lock.rollback()?;
        page.shows("#leaks", "None");

        server.kill();
        page.shows("#outages", "connecting has failed for");
        page.shows("#status", "Error");
        page.is_well_laid_out("down")?;
        server.start_again();
        page.shows("#outages", "ago");
        Ok(())
    })?;

    let complaints = page.complaints.lock().unwrap();
    assert!(complaints.is_empty(), "the browser complains: {complaints:#?}");
    println!("little has moved, nothing was loaded from elsewhere, and the console is empty");
    Ok(())
}
