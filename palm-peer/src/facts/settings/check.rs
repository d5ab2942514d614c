//! What settings may be, each alone and together.

use super::{InvalidSetting, Settings};
use crate::facts::keys::Keys;
use std::{net::IpAddr, time::Duration};

/// The longest time that a setting may name; more is a slip of the pen.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// etcd grants no lease much shorter than this: its election timeout bounds it.
const SHORTEST_TTL: Duration = Duration::from_secs(2);

impl Settings {
    pub(super) fn check_etcd(&self) -> Result<(), InvalidSetting> {
        for url in &self.etcd {
            let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            if host.is_none_or(|host| host.trim_end_matches('/').is_empty() || host.contains(char::is_whitespace)) {
                let reason = format!("{url:?} is no URL such as http://127.0.0.1:2379");
                return Err(InvalidSetting::new("etcd", reason));
            }
        }
        if self.etcd.is_empty() {
            return Err(InvalidSetting::new("etcd", "at least one URL is needed"));
        }
        if !Keys::is_valid_prefix(&self.prefix) {
            let reason = format!("{:?} must start with / and hold no space", self.prefix);
            return Err(InvalidSetting::new("prefix", reason));
        }
        Ok(())
    }

    pub(super) fn check_address(&self) -> Result<(), InvalidSetting> {
        let host = &self.ip;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(InvalidSetting::new("ip", format!("{host:?} is no host")));
        }
        match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => {
                let reason =
                    format!("nobody can reach {ip}: name this machine's address, and use bind to listen on all");
                Err(InvalidSetting::new("ip", reason))
            }
            Err(_) if self.bind.is_none() => Err(InvalidSetting::new(
                "bind",
                format!("ip is the name {host}: name the address to listen on as well"),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn check_times(&self) -> Result<(), InvalidSetting> {
        let times = [
            ("ttl", self.ttl, SHORTEST_TTL),
            ("join_timeout", self.join_timeout, Duration::from_millis(100)),
            ("probe_period", self.probe_period, Duration::from_millis(100)),
            ("probe_timeout", self.probe_timeout, Duration::from_millis(10)),
            ("drain", self.drain, Duration::ZERO),
            ("timeout", self.timeout, Duration::from_millis(1)),
        ];
        for (name, time, least) in times {
            if time < least || time > LONGEST {
                return Err(InvalidSetting::new(name, format!("{time:?} is not within {least:?} and {LONGEST:?}")));
            }
        }
        if self.probe_timeout > self.probe_period {
            let reason = format!("{:?} is longer than probe_period, {:?}", self.probe_timeout, self.probe_period);
            return Err(InvalidSetting::new("probe_timeout", reason));
        }
        Ok(())
    }

    pub(super) fn check_limits(&self) -> Result<(), InvalidSetting> {
        if !(1..=100).contains(&self.probe_misses) {
            return Err(InvalidSetting::new("probe_misses", format!("{} is not within 1 and 100", self.probe_misses)));
        }
        // ZeroMQ's queue for one connection holds 100,000 messages and must never fill.
        for (name, count, most) in [
            ("max_in_flight", self.max_in_flight, 50_000),
            ("max_queued", self.max_queued, 1_000_000),
            ("max_connections", self.max_connections, 1_000_000),
            ("max_per_address", self.max_per_address, 1_000_000),
        ] {
            if count == 0 || count > most {
                return Err(InvalidSetting::new(name, format!("{count} is not within 1 and {most}")));
            }
        }
        for (name, bytes) in
            [("max_unread", self.max_unread), ("max_held", self.max_held), ("max_queued_bytes", self.max_queued_bytes)]
        {
            if bytes < self.max_payload {
                let reason = format!("{bytes} is less than max_payload, {}", self.max_payload);
                return Err(InvalidSetting::new(name, reason));
            }
        }
        Ok(())
    }
}
