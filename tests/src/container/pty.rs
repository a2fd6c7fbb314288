//! A terminal for a command of the test, with somebody at the keyboard.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::pty::openpty;

use super::patience;

/// A command in a terminal of its own.
pub struct Pty {
    child: Child,
    keyboard: File,
    slave: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts a command with a terminal of 24 lines and 80 columns as its controlling one.
    pub fn start(inner: &Command) -> Pty {
        let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("open a terminal");
        let stream = || Stdio::from(pair.slave.try_clone().expect("copy a descriptor"));
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().stdin(stream()).stdout(stream()).stderr(stream());
        for (key, value) in inner.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        if let Some(dir) = inner.get_current_dir() {
            command.current_dir(dir);
        }
        let child = command.spawn().expect("run setsid");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let mut master = File::from(pair.master);
        let keyboard = master.try_clone().expect("copy a descriptor");
        let shown = Arc::clone(&screen);
        // Not joined: it ends when nobody has the terminal open.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                shown.lock().expect("lock").extend_from_slice(&buffer[..length]);
            }
        });
        Pty { child, keyboard, slave: pair.slave, screen }
    }

    /// Types.
    pub fn types(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("type");
    }

    /// What has been shown so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("lock")).into_owned()
    }

    /// Waits until something has been shown.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        patience::until(&format!("{text:?} on the screen"), || {
            if self.screen().contains(text) { Ok(()) } else { Err(self.screen()) }
        });
    }

    /// Changes the size of the window.
    pub fn resize(&self, rows: u16, columns: u16) {
        let status = Command::new("stty")
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(self.slave.try_clone().expect("copy a descriptor"))
            .status();
        assert!(status.expect("run stty").success());
    }

    /// Waits for the end of the command; its exit code.
    #[track_caller]
    pub fn ends(&mut self) -> Option<i32> {
        let mut code = None;
        patience::until("the end of the command", || match self.child.try_wait() {
            Ok(Some(status)) => {
                code = status.code();
                Ok(())
            }
            other => Err(format!("{other:?}, {}", self.screen())),
        });
        code
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Usually it has ended.
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}
