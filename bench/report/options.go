package report

// option is what of an ECharts option object the charts here use; names and meaning are
// those of https://echarts.apache.org/en/option.html.
type option struct {
	Title     title    `json:"title"`
	Color     []string `json:"color,omitempty"`
	Aria      enabled  `json:"aria"`
	Animation bool     `json:"animation"`
	Tooltip   tooltip  `json:"tooltip"`
	Legend    *legend  `json:"legend,omitempty"`
	Grid      grid     `json:"grid"`
	XAxis     axis     `json:"xAxis"`
	YAxis     axis     `json:"yAxis"`
	Series    []series `json:"series"`
}

type title struct {
	Text      string `json:"text"`
	Left      string `json:"left"`
	TextStyle style  `json:"textStyle"`
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

type tooltip struct {
	Formatter    string `json:"formatter"`
	Confine      bool   `json:"confine"`
	ExtraCSSText string `json:"extraCssText"`
}

type legend struct {
	Data       []string `json:"data,omitempty"`
	Top        int      `json:"top"`
	Left       string   `json:"left"`
	ItemHeight int      `json:"itemHeight"`
}

type grid struct {
	Left   int `json:"left"`
	Right  int `json:"right"`
	Top    int `json:"top"`
	Bottom int `json:"bottom"`
}

type axis struct {
	Type         string     `json:"type"`
	Name         string     `json:"name,omitempty"`
	NameLocation string     `json:"nameLocation,omitempty"`
	NameGap      int        `json:"nameGap,omitempty"`
	Min          *float64   `json:"min,omitempty"`
	Max          *float64   `json:"max,omitempty"`
	LogBase      int        `json:"logBase,omitempty"`
	Inverse      bool       `json:"inverse,omitempty"`
	Data         []string   `json:"data,omitempty"`
	AxisLabel    *axisLabel `json:"axisLabel,omitempty"`
}

type axisLabel struct {
	Interval *int  `json:"interval,omitempty"` // 0: every label
	ShowMax  *bool `json:"showMaxLabel,omitempty"`
}

type series struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Data       []point    `json:"data"`
	Symbol     string     `json:"symbol,omitempty"`
	SymbolSize any        `json:"symbolSize,omitempty"` // a size, or width and height
	LineStyle  *lineStyle `json:"lineStyle,omitempty"`
	ItemStyle  *itemStyle `json:"itemStyle,omitempty"`
	Label      *label     `json:"label,omitempty"`
	EndLabel   *label     `json:"endLabel,omitempty"`
	MarkLine   *markLine  `json:"markLine,omitempty"`
	BarMaxSize int        `json:"barMaxWidth,omitempty"`
	Silent     bool       `json:"silent,omitempty"`
	Z          int        `json:"z,omitempty"`
}

// point is a value with its text in the tooltip.
type point struct {
	Name  string `json:"name"`
	Value any    `json:"value"` // a number, x and y, or "-": none
	Label *label `json:"label,omitempty"`
}

type style struct {
	Color      string `json:"color,omitempty"`
	FontSize   int    `json:"fontSize,omitempty"`
	FontWeight string `json:"fontWeight,omitempty"`
}

type lineStyle struct {
	Color string  `json:"color,omitempty"`
	Type  string  `json:"type,omitempty"`
	Width float64 `json:"width,omitempty"`
}

type itemStyle struct {
	Color string `json:"color,omitempty"`
}

type label struct {
	Show      bool   `json:"show"`
	Position  string `json:"position,omitempty"`
	Formatter string `json:"formatter,omitempty"`
	Color     string `json:"color,omitempty"`
	FontSize  int    `json:"fontSize,omitempty"`
	Offset    [2]int `json:"offset,omitzero"` // in pixels
}

type markLine struct {
	Symbol    string     `json:"symbol"`
	Silent    bool       `json:"silent"`
	Data      []mark     `json:"data"`
	LineStyle *lineStyle `json:"lineStyle,omitempty"`
	Label     *label     `json:"label,omitempty"`
}

type mark struct {
	XAxis float64 `json:"xAxis"`
}
