//! Writes families of metrics, with their samples as they are now.

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};
use std::fmt;

/// The labels of a sample.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A family: its name, without a unit or a suffix, and what it is.
pub(super) struct Family {
    /// Without the unit, and without the `_total` of a counter.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
}

/// Returns a family of numbers.
pub(super) const fn of(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        unit: None,
    }
}

/// Returns a family of seconds.
pub(super) const fn seconds(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        unit: Some(Unit::Seconds),
    }
}

/// Returns a family of bytes.
pub(super) const fn bytes(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        unit: Some(Unit::Bytes),
    }
}

/// Writes families. Each is announced even if it has no sample.
pub(super) struct Families<'a> {
    pub(super) encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    /// Writes a counter without labels.
    pub(super) fn counter(&mut self, family: &Family, count: u64) -> fmt::Result {
        self.counters(family, [(Labels::new(), count)])
    }

    /// Writes counters of the same name.
    pub(super) fn counters<'a>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(family, MetricType::Counter)?;
        for (labels, count) in samples {
            let mut sample = encoder.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        Ok(())
    }

    /// Writes a gauge without labels.
    pub(super) fn gauge(&mut self, family: &Family, value: u64) -> fmt::Result {
        self.gauges(family, [(Labels::new(), value)])
    }

    /// Writes gauges of the same name.
    pub(super) fn gauges<'a>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(family, MetricType::Gauge)?;
        for (labels, value) in samples {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes points in time, in seconds since 1970.
    pub(super) fn times<'a>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(family, MetricType::Gauge)?;
        for (labels, at) in samples {
            encoder.encode_family(&labels)?.encode_gauge(&at)?;
        }
        Ok(())
    }

    /// Writes the descriptor of a family. Its samples go to what is returned.
    pub(super) fn begin<'s>(
        &'s mut self,
        family: &'s Family,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        let Family { name, help, unit } = family;
        self.encoder
            .encode_descriptor(name, help, unit.as_ref(), kind)
    }
}
