//! Validation of settings, each alone and in combination.

use super::{
    Config, InvalidSetting, host,
    read::{etcd_url, with_scheme},
};
use crate::types::{keys::Keys, names};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// The longest duration of a setting; a longer one is most likely a mistake.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The largest limit in bytes, 1 TiB: more is most likely a mistake, and sums must not overflow.
const MAX_BYTES: usize = 1 << 40;
/// etcd grants no shorter leases: its election timeout bounds them.
const SHORTEST_TTL: Duration = Duration::from_secs(2);

impl Config {
    pub(super) fn check_etcd(&mut self) -> Result<(), InvalidSetting> {
        for url in &mut self.etcd {
            *url = etcd_url(&with_scheme(url, self.cacert.is_some()))?;
        }
        if self.etcd.is_empty() {
            return Err(InvalidSetting::new("etcd", "at least one URL is needed"));
        }
        if !Keys::is_valid_prefix(&self.prefix) {
            let reason = format!(
                "{:?} must start with /, and contain neither //, white space nor control characters",
                self.prefix
            );
            return Err(InvalidSetting::new("prefix", reason));
        }
        Ok(())
    }

    pub(super) fn check_address(&mut self) -> Result<(), InvalidSetting> {
        self.ip = host::host(&self.ip).map_err(|reason| InvalidSetting::new("ip", reason))?;
        let host = &self.ip;
        match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip)
                if ip.is_unspecified()
                    || ip.is_multicast()
                    || ip == IpAddr::V4(Ipv4Addr::BROADCAST) =>
            {
                let reason = format!(
                    "{host} cannot be reached from other machines: set ip to this machine's address, and bind to listen on all"
                );
                Err(InvalidSetting::new("ip", reason))
            }
            Err(_) if self.bind.is_none() => Err(InvalidSetting::new(
                "bind",
                format!("ip is the name {host}: set bind to the address to listen on"),
            )),
            _ => Ok(()),
        }
    }

    /// What is served there is for the administrators of this machine.
    pub(super) fn check_metrics(&self) -> Result<(), InvalidSetting> {
        match self.metrics {
            Some(address) if !self.metrics_public && !address.ip().to_canonical().is_loopback() => {
                let reason = format!(
                    "{address} can be reached from other machines, and what is served there is neither encrypted nor authenticated: \
                     choose an address such as 127.0.0.1:{}, or set metrics_public to yes",
                    address.port()
                );
                Err(InvalidSetting::new("metrics", reason))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_labels(&self) -> Result<(), InvalidSetting> {
        if !self.zone.is_empty() && !names::is_label(&self.zone) {
            return Err(InvalidSetting::new("zone", names::no_label(&self.zone)));
        }
        if let Some(wrong) = self.tags.iter().find(|tag| !names::is_label(tag)) {
            return Err(InvalidSetting::new("tags", names::no_label(wrong)));
        }
        if self.tags.len() > names::MAX_TAGS {
            let reason = format!("{} tags, {} at most", self.tags.len(), names::MAX_TAGS);
            return Err(InvalidSetting::new("tags", reason));
        }
        if self.prefer_zone && self.zone.is_empty() {
            let reason = "there is no zone to prefer: set zone";
            return Err(InvalidSetting::new("prefer_zone", reason));
        }
        Ok(())
    }

    pub(super) fn check_times(&self) -> Result<(), InvalidSetting> {
        let times = [
            ("ttl", self.ttl, SHORTEST_TTL),
            (
                "join_timeout",
                self.join_timeout,
                Duration::from_millis(100),
            ),
            (
                "probe_period",
                self.probe_period,
                Duration::from_millis(100),
            ),
            (
                "probe_timeout",
                self.probe_timeout,
                Duration::from_millis(10),
            ),
            ("drain", self.drain, Duration::ZERO),
            ("timeout", self.timeout, Duration::from_millis(1)),
        ];
        for (name, time, min) in times {
            if time < min || time > LONGEST {
                return Err(InvalidSetting::new(
                    name,
                    format!("{time:?} is not between {min:?} and {LONGEST:?}"),
                ));
            }
        }
        if self.probe_timeout > self.probe_period {
            let reason = format!(
                "{:?} is longer than probe_period, {:?}",
                self.probe_timeout, self.probe_period
            );
            return Err(InvalidSetting::new("probe_timeout", reason));
        }
        Ok(())
    }

    pub(super) fn check_limits(&self) -> Result<(), InvalidSetting> {
        if !(1..=100).contains(&self.probe_misses) {
            return Err(InvalidSetting::new(
                "probe_misses",
                format!("{} is not between 1 and 100", self.probe_misses),
            ));
        }
        // ZeroMQ's queue for one connection holds 100,000 messages and must never fill.
        for (name, count, max) in [
            ("max_in_flight", self.max_in_flight, 50_000),
            ("max_queued", self.max_queued, 1_000_000),
            ("max_connections", self.max_connections, 1_000_000),
            ("max_per_address", self.max_per_address, 1_000_000),
        ] {
            if count == 0 || count > max {
                return Err(InvalidSetting::new(
                    name,
                    format!("{count} is not between 1 and {max}"),
                ));
            }
        }
        for (name, bytes, min) in [
            ("max_payload", self.max_payload, 1),
            ("max_store", self.max_store, 0),
            ("max_queued_bytes", self.max_queued_bytes, 1),
            ("max_unread", self.max_unread, 1),
            ("max_held", self.max_held, 1),
        ] {
            if !(min..=MAX_BYTES).contains(&bytes) {
                return Err(InvalidSetting::new(
                    name,
                    format!("{bytes} is not between {min} and {MAX_BYTES}"),
                ));
            }
        }
        for (name, bytes) in [
            ("max_unread", self.max_unread),
            ("max_held", self.max_held),
            ("max_queued_bytes", self.max_queued_bytes),
        ] {
            if bytes < self.max_payload {
                let reason = format!("{bytes} is less than max_payload, {}", self.max_payload);
                return Err(InvalidSetting::new(name, reason));
            }
        }
        Ok(())
    }
}
