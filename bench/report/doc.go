// Package report turns the records of gqa bench into one HTML page with charts, which
// loads nothing: the chart library is in it.
//
// That is Apache ECharts 6.1.0 (Apache License 2.0; echarts/LICENSE and echarts/NOTICE), the
// file dist/echarts.common.min.js of npm's package, as npm pack echarts@6.1.0 gives it.
package report
